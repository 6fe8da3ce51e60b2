package client

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// UsageQuery selects usage. Zero fields take the server's defaults.
type UsageQuery struct {
	// Tenant and Sandbox select only what is theirs. A key without the scope admin
	// sees its own tenant's.
	Tenant, Sandbox string
	// From and To are the first and the last UTC day; the default is this month.
	From, To time.Time
	// By is what the rows are by: "day", the default, "tenant" or "sandbox".
	By string
}

// UsageRow is a sum of usage: Day is set by day, Tenant by tenant and by sandbox.
type UsageRow struct {
	Day     string `json:"day,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`

	bulkhead.Usage
}

// Usage is what was used, and what it costs.
type Usage struct {
	// From and To are the first and the last day, as 2006-01-02.
	From string `json:"from"`
	To   string `json:"to"`
	// By is what the rows are by.
	By string `json:"by"`
	// Prices are those that the costs are made of.
	Prices bulkhead.Prices `json:"prices"`
	Rows   []UsageRow      `json:"rows"`
	Total  bulkhead.Usage  `json:"total"`
}

// Usage returns what was used, measured up to the last sample. It needs a key with
// the scope manage.
func (c *Client) Usage(ctx context.Context, q UsageQuery) (Usage, error) {
	query := url.Values{}
	for name, value := range map[string]string{"tenant": q.Tenant, "sandbox": q.Sandbox, "by": q.By} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, day := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !day.IsZero() {
			query.Set(name, day.UTC().Format(time.DateOnly))
		}
	}
	var out Usage
	_, err := c.call(ctx, request{op: "get usage", method: http.MethodGet, path: "/v1/usage", query: query}, &out)
	return out, err
}

// ActQuery selects acts. Zero fields select all that the caller may see.
type ActQuery struct {
	// Tenant selects what a tenant did and what was done to it.
	Tenant string
	// Action, Key and Target select by those.
	Action, Key, Target string
	// From and To bound the time.
	From, To time.Time
}

// Acts yields what the audit log has, the newest first, page by page as it is asked
// for. After an error it ends. It needs a key with the scope manage.
func (c *Client) Acts(ctx context.Context, q ActQuery) iter.Seq2[bulkhead.Act, error] {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for name, value := range map[string]string{"tenant": q.Tenant, "action": q.Action, "key": q.Key, "target": q.Target} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !at.IsZero() {
			query.Set(name, at.UTC().Format(time.RFC3339))
		}
	}
	return func(yield func(bulkhead.Act, error) bool) {
		query := maps.Clone(query)
		for {
			var page []bulkhead.Act
			h, err := c.call(ctx, request{op: "read audit log", method: http.MethodGet, path: "/v1/audit", query: query}, &page)
			if err != nil {
				yield(bulkhead.Act{}, err)
				return
			}
			for _, a := range page {
				if !yield(a, nil) {
					return
				}
			}
			next := h.Get("X-Next-Token")
			if next == "" || len(page) == 0 {
				return
			}
			query.Set("before", next)
		}
	}
}

package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Pool is the pool of one template's boxes on a node.
type Pool struct {
	// Template is the template's name, Digest the version that serves, Next one
	// whose boxes are being made before it does.
	Template string `json:"template"`
	Digest   string `json:"digest"`
	Next     string `json:"next,omitempty"`
	// Warm and Cold are boxes that wait, Leased those given away, Making those on
	// their way.
	Warm   int `json:"warm"`
	Cold   int `json:"cold"`
	Leased int `json:"leased"`
	Making int `json:"making"`
	// Target is how many should wait; Pinned says that an operator set it.
	Target PoolTarget `json:"target"`
	Pinned bool       `json:"pinned"`
	// Hits counts requests by the stage of the box they got, "warm", "cold" or
	// "new"; Misses those that got less than a warm one, by cause; Wasted boxes
	// destroyed unused, by cause; Failed those that could not be made.
	Hits   map[string]int64 `json:"hits"`
	Misses map[string]int64 `json:"misses"`
	Wasted map[string]int64 `json:"wasted"`
	Failed int64            `json:"failed"`
	// CreateTime and RestoreTime are what making a cold box takes, and a warm one of
	// it, as measured.
	CreateTime  time.Duration `json:"createTimeNs"`
	RestoreTime time.Duration `json:"restoreTimeNs"`
	// WarmMB and ColdMB are the measured memory of one waiting box, WarmSeconds and
	// ColdSeconds how long boxes have waited, IdleMBs what that cost in MB·s.
	WarmMB      float64 `json:"warmMB"`
	ColdMB      float64 `json:"coldMB"`
	WarmSeconds float64 `json:"warmSeconds"`
	ColdSeconds float64 `json:"coldSeconds"`
	IdleMBs     float64 `json:"idleMBs"`
	// Use is what was asked for.
	Use PoolUse `json:"use"`
	// Image is the template's snapshot.
	Image PoolImage `json:"image"`
}

// PoolTarget is how many boxes should wait, and why.
type PoolTarget struct {
	Warm int    `json:"warm"`
	Cold int    `json:"cold"`
	Why  string `json:"why,omitempty"`
}

// PoolUse counts requests: all of them, those of the last hour, and the forecast
// for an hour.
type PoolUse struct {
	Total   int64   `json:"total"`
	Recent  int64   `json:"recent"`
	PerHour float64 `json:"perHour"`
	Burst   bool    `json:"burst"`
}

// PoolImage describes a template's snapshot. State is "none", "unsupported",
// "taking", "ready" or "failed"; Skipped are imports that failed.
type PoolImage struct {
	State     string    `json:"state"`
	Error     string    `json:"error,omitempty"`
	Skipped   []string  `json:"skipped,omitempty"`
	SizeBytes int64     `json:"sizeBytes,omitempty"`
	TakenAt   time.Time `json:"takenAt,omitzero"`
}

// PoolTotals adds up all pools.
type PoolTotals struct {
	Warm      int     `json:"warm"`
	Cold      int     `json:"cold"`
	Leased    int     `json:"leased"`
	Making    int     `json:"making"`
	TotalUse  int64   `json:"totalUse"`
	RecentUse int64   `json:"recentUse"`
	WarmMB    float64 `json:"warmMB"`
	IdleMBs   float64 `json:"idleMBs"`
}

// PoolReport is all pools of a node.
type PoolReport struct {
	Pools  []Pool     `json:"pools"`
	Totals PoolTotals `json:"totals"`
	Memory struct {
		AvailableMB int64   `json:"availableMB"`
		ReserveMB   int64   `json:"reserveMB"`
		Stalled     float64 `json:"stalledPercent"`
		Short       bool    `json:"short"`
	} `json:"memory"`
}

// PoolSize is a pinned size: each 0 to 1000.
type PoolSize struct {
	Warm int `json:"warm"`
	Cold int `json:"cold"`
}

// PoolForecast is the number of requests that is expected until a time: its mean,
// and the numbers that are not exceeded in 50, 90 and 99 of 100 cases.
type PoolForecast struct {
	Template string     `json:"template"`
	At       time.Time  `json:"at"`
	Until    time.Time  `json:"until"`
	Mean     float64    `json:"mean"`
	P50      int        `json:"p50"`
	P90      int        `json:"p90"`
	P99      int        `json:"p99"`
	Use      PoolUse    `json:"use"`
	Target   PoolTarget `json:"target"`
}

// Pools returns the pools of the node. It needs a key with the scope admin.
func (c *Client) Pools(ctx context.Context) (PoolReport, error) {
	var r PoolReport
	_, err := c.call(ctx, request{op: "list pools", method: http.MethodGet, path: "/v1/pools"}, &r)
	return r, err
}

// SetPool pins the size of a template's pool, over restarts of the server; with
// nil the forecast decides again. Codes: not_found, invalid.
func (c *Client) SetPool(ctx context.Context, template string, size *PoolSize) (Pool, error) {
	var p Pool
	body := map[string]*PoolSize{"pin": size}
	_, err := c.call(ctx, request{op: "set pool", method: http.MethodPatch, path: "/v1/pools/" + url.PathEscape(template), body: body}, &p)
	return p, err
}

// PredictPool forecasts the requests for a template from now until horizon has
// passed, 1 s to 28 days. Codes: not_found, invalid.
func (c *Client) PredictPool(ctx context.Context, template string, horizon time.Duration) (PoolForecast, error) {
	var f PoolForecast
	_, err := c.call(ctx, request{
		op: "forecast pool", method: http.MethodGet, path: "/v1/pools/" + url.PathEscape(template) + "/forecast",
		query: url.Values{"horizon": {horizon.String()}},
	}, &f)
	return f, err
}

package api

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// pageSize is the default and the largest number of entries on a page.
const pageSize = 100

// listV1 serves GET /sandboxes: everything that runs, newest first.
func (s *Server) listV1(w http.ResponseWriter, r *http.Request, c caller) error {
	found, err := s.running(r, c)
	if err != nil {
		return err
	}
	sortByStart(found, false)
	out := make([]listedSandbox, 0, len(found))
	for _, sb := range found {
		out = append(out, listed(sb))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// listV2 serves GET /v2/sandboxes, page by page.
func (s *Server) listV2(w http.ResponseWriter, r *http.Request, c caller) error {
	limit, err := intQuery(r, "limit", pageSize, 1, pageSize)
	if err != nil {
		return err
	}
	order, err := oneOf(r, "order", "desc", "asc")
	if err != nil {
		return err
	}
	ascending := order == "asc"
	after, err := parseCursor(r.URL.Query().Get("nextToken"), ascending)
	if err != nil {
		return err
	}
	wantRunning, err := runningWanted(r.URL.Query()["state"])
	if err != nil {
		return err
	}
	var found []bulkhead.Sandbox
	if wantRunning { // nothing is ever paused
		if found, err = s.running(r, c); err != nil {
			return err
		}
		w.Header().Set("X-Total-Running", strconv.Itoa(len(found)))
	}
	sortByStart(found, ascending)
	out := make([]listedSandbox, 0, min(int(limit), len(found)))
	for _, sb := range found {
		at := position{sb.StartedAt, sb.ID}
		if after != nil && compare(at, *after, ascending) <= 0 {
			continue
		}
		if len(out) == int(limit) {
			w.Header().Set("X-Next-Token", formatCursor(position{out[limit-1].StartedAt, out[limit-1].SandboxID}, ascending))
			break
		}
		out = append(out, listed(sb))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// running returns the caller's running sandboxes that the query selects.
func (s *Server) running(r *http.Request, c caller) ([]bulkhead.Sandbox, error) {
	f, err := filter(r, c)
	if err != nil {
		return nil, err
	}
	f.States = []bulkhead.State{bulkhead.StateRunning}
	return s.cfg.Lookup.List(r.Context(), f)
}

// filter is what the query says of the caller's sandboxes, but for their states.
func filter(r *http.Request, c caller) (f bulkhead.Filter, err error) {
	q := r.URL.Query()
	f.Tenant, f.Template = c.Tenant, q.Get("template")
	if f.Metadata, err = parseMetadata(q.Get("metadata")); err != nil {
		return f, err
	}
	if text := q.Get("startedAfter"); text != "" {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return f, bulkhead.Errorf(bulkhead.CodeInvalid, "startedAfter is %q; it must be a time as in RFC 3339", text)
		}
		f.StartedAfter = at.Add(-1) // E2B means "at or after"
	}
	return f, nil
}

// runningWanted reports whether a state filter selects running sandboxes. The
// SDKs separate states by commas, others repeat the parameter.
func runningWanted(states []string) (bool, error) {
	if len(states) == 0 {
		return true, nil
	}
	wanted := false
	for state := range strings.SplitSeq(strings.Join(states, ","), ",") {
		switch state {
		case "running":
			wanted = true
		case "paused":
		default:
			return false, bulkhead.Errorf(bulkhead.CodeInvalid, "state is %q; it must be running or paused", state)
		}
	}
	return wanted, nil
}

// parseMetadata reads a metadata filter. The SDKs percent-encode each key and
// value, then encode the whole as a query string, and put that into the query:
// what comes here, out of the outer query, is decoded twice more.
func parseMetadata(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	bad := func(what string) error {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "metadata filter %s; it must be key=value pairs joined with &, keys and values percent-encoded", what)
	}
	if len(text) > 8*maxPairBytes { // each level of encoding triples what it encodes, at most
		return nil, bad("has " + strconv.Itoa(len(text)) + " bytes")
	}
	pairs, err := url.ParseQuery(text)
	if err != nil {
		return nil, bad("is not a query string")
	}
	if len(pairs) > maxPairs {
		return nil, bad("has more than " + strconv.Itoa(maxPairs) + " pairs")
	}
	out := make(map[string]string, len(pairs))
	for k, values := range pairs {
		key, err := url.PathUnescape(k)
		if err != nil {
			return nil, bad("has a key that is not percent-encoded")
		}
		value, err := url.PathUnescape(values[len(values)-1])
		if err != nil {
			return nil, bad("has a value that is not percent-encoded")
		}
		out[key] = value
	}
	return out, nil
}

// position is where a sandbox stands in a list.
type position struct {
	startedAt time.Time
	id        string
}

// compare orders positions by start, then by id.
func compare(a, b position, ascending bool) int {
	order := cmp.Or(a.startedAt.Compare(b.startedAt), cmp.Compare(a.id, b.id))
	if ascending {
		return order
	}
	return -order
}

func sortByStart(found []bulkhead.Sandbox, ascending bool) {
	slices.SortFunc(found, func(a, b bulkhead.Sandbox) int {
		return compare(position{a.StartedAt, a.ID}, position{b.StartedAt, b.ID}, ascending)
	})
}

// cursorOrder marks the cursor of an ascending list.
const cursorOrder = "asc"

// formatCursor is E2B's form of the position after which a page starts.
func formatCursor(at position, ascending bool) string {
	text := at.startedAt.UTC().Format(time.RFC3339Nano) + "__" + at.id
	if ascending {
		text += "__" + cursorOrder
	}
	return base64.URLEncoding.EncodeToString([]byte(text))
}

// parseCursor reads what [formatCursor] wrote for a list of the same order. The
// empty cursor is the start of the list: nil.
func parseCursor(text string, ascending bool) (*position, error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.URLEncoding.DecodeString(text)
	parts := strings.Split(string(raw), "__")
	if ascending && len(parts) == 3 && parts[2] == cursorOrder {
		parts = parts[:2]
	} else if ascending {
		parts = nil
	}
	if err != nil || len(parts) != 2 || !idPattern.MatchString(parts[1]) {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "nextToken is not one of a list in this order")
	}
	at, err := time.Parse(time.RFC3339Nano, parts[0])
	if err != nil {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "nextToken is not one of a list in this order")
	}
	return &position{at, parts[1]}, nil
}

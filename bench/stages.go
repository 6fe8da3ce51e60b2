package main

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead/client"
)

// stages says where the time of a create goes, from the server's own account of
// it, by what the box was made of: a waiting warm box, a cold one, or nothing.
func stages(ctx context.Context, o options, r *report) error {
	for _, pool := range []struct {
		from       string
		warm, cold int
	}{{"warm", 4, 0}, {"cold", 0, 4}, {"new", 0, 0}} {
		if err := o.pin(ctx, pool.warm, pool.cold); err != nil {
			return err
		}
		seen := &timings{next: http.DefaultTransport, took: map[string]*sample{}}
		c, err := client.New(client.Config{BaseURL: o.url, APIKey: o.key, Tries: 1, HTTPClient: &http.Client{Transport: seen}})
		if err != nil {
			return err
		}
		var failed sample
		for range max(5, o.n/3) {
			sb, err := c.Create(ctx, request())
			if err == nil {
				err = drop(ctx, c, sb.ID())
			}
			failed.note(0, err)
			failed.note(0, o.settled(ctx))
		}
		if failed.firstErr != nil {
			return failed.firstErr
		}
		for _, name := range seen.order {
			s := seen.took[name]
			s.sort()
			r.add(pool.from+": "+name, *s, "", nil)
		}
	}
	return o.unpin(ctx)
}

// timings reads the Server-Timing of creates that pass through.
type timings struct {
	next http.RoundTripper

	mu    sync.Mutex
	took  map[string]*sample
	order []string
}

// RoundTrip implements [http.RoundTripper].
func (t *timings) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusCreated {
		t.read(resp.Header.Get("Server-Timing"))
	}
	return resp, err
}

func (t *timings) read(header string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		dur, ok := strings.CutPrefix(strings.Split(params, ";")[0], "dur=")
		v, err := strconv.ParseFloat(dur, 64)
		if !ok || err != nil {
			continue
		}
		if t.took[name] == nil {
			t.took[name] = &sample{}
			t.order = append(t.order, name)
		}
		t.took[name].note(time.Duration(v*float64(time.Millisecond)), nil)
	}
}

package api

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/rate"
)

// take counts the request against the rates of its key. What is left is in the
// answer's headers: those of the most pressing rate.
func (s *Server) take(w http.ResponseWriter, r *http.Request, c caller) error {
	type limit struct {
		name      string
		perSecond float64
	}
	limits := []limit{{"requests", c.RequestsPerSecond}}
	if isCreate(r) {
		limits = append(limits, limit{"creates", c.CreatesPerSecond})
	}
	left := math.Inf(1)
	for _, l := range limits {
		if l.perSecond <= 0 {
			continue
		}
		d := s.rates.Take(c.ID+" "+l.name, l.perSecond, s.cfg.Now())
		if share := float64(d.Remaining) / float64(d.Limit); share < left || !d.OK {
			left = share
			sayRate(w.Header(), l.name, d)
		}
		if !d.OK {
			return &bulkhead.Error{
				Code: bulkhead.CodeQuotaExceeded, RetryAfter: max(d.Wait, time.Second),
				Msg: fmt.Sprintf("the API key %s… may make %v %s a second, with a burst of %d; the next is possible in %v",
					c.Prefix, l.perSecond, l.name, d.Limit, d.Wait.Round(time.Millisecond)),
			}
		}
	}
	return nil
}

// isCreate reports whether the request makes a sandbox.
func isCreate(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.Pattern, "/sandboxes")
}

// sayRate sets the headers of draft-ietf-httpapi-ratelimit-headers, and the three
// of its earlier versions that most clients know.
func sayRate(h http.Header, name string, d rate.Decision) {
	reset := strconv.Itoa(int(math.Ceil(d.Reset.Seconds())))
	remaining := strconv.Itoa(d.Remaining)
	h.Set("RateLimit-Limit", strconv.Itoa(d.Limit))
	h.Set("RateLimit-Remaining", remaining)
	h.Set("RateLimit-Reset", reset)
	h.Set("RateLimit-Policy", fmt.Sprintf("%q;q=%d;w=%d", name, d.Limit, int(rate.Window.Seconds())))
	h.Set("RateLimit", fmt.Sprintf("%q;r=%s;t=%s", name, remaining, reset))
}

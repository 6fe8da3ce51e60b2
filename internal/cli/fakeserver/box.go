package fakeserver

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// hasMetadata reports whether have holds every pair of a query string whose keys
// and values are escaped once more, as E2B's SDKs send it.
func hasMetadata(have map[string]string, query string) bool {
	pairs, err := url.ParseQuery(query)
	if err != nil {
		return false
	}
	for k := range pairs {
		key, kerr := url.PathUnescape(k)
		value, verr := url.PathUnescape(pairs.Get(k))
		if kerr != nil || verr != nil || have[key] != value {
			return false
		}
	}
	return true
}

// serveBox is the data plane: it routes by header, and answers for sandboxes and
// ports that are not there.
func (s *Server) serveBox(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("E2b-Sandbox-Id")
	port, err := strconv.Atoi(r.Header.Get("E2b-Sandbox-Port"))
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"code": http.StatusBadRequest, "message": "the header E2b-Sandbox-Port is missing"})
		return
	}
	s.mu.Lock()
	sb := s.find(id)
	var h http.Handler
	var token, traffic string
	gone := sb == nil || sb.End != nil
	if !gone {
		token, traffic = sb.EnvdToken, sb.TrafficToken
		if sb.ports[port] == nil && s.Box != nil {
			sb.ports[port] = s.Box(sb.Sandbox, port)
		}
		h = sb.ports[port]
	}
	s.mu.Unlock()
	switch own := port == boxrpc.EnvdPort || port == boxrpc.InterpreterPort; {
	case gone:
		answer(w, http.StatusBadGateway, map[string]any{"sandboxId": id, "message": "The sandbox was not found", "code": http.StatusBadGateway})
	case traffic != "" && port != boxrpc.EnvdPort && r.Header.Get("E2b-Traffic-Access-Token") != traffic:
		answer(w, http.StatusForbidden, map[string]any{"sandboxId": id, "message": "the traffic token is missing or wrong", "code": http.StatusForbidden})
	case own && token != "" && r.Header.Get("X-Access-Token") != token:
		answer(w, http.StatusUnauthorized, map[string]any{"code": http.StatusUnauthorized, "message": "unauthorized access"})
	case h == nil:
		answer(w, http.StatusBadGateway, map[string]any{
			"sandboxId": id, "message": "The sandbox is running but port is not open", "port": port, "code": http.StatusBadGateway,
		})
	default:
		h.ServeHTTP(w, r)
	}
}

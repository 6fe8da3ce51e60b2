package proxy

import (
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// The headers that name a sandbox where the host does not.
const (
	idHeader   = "E2b-Sandbox-Id"
	portHeader = "E2b-Sandbox-Port"
)

// The kinds of port, as the metrics name them.
const (
	kindEnvd        = "envd"
	kindInterpreter = "interpreter"
	kindUser        = "user"
	kindNone        = "none"
)

// maxID bounds a sandbox id, in bytes. A DNS label holds 63.
const maxID = 63

// target is a port of a sandbox.
type target struct {
	id   string // [a-z0-9]+
	port int    // 1 to 65535
}

func (t target) kind() string {
	switch t.port {
	case boxrpc.EnvdPort:
		return kindEnvd
	case boxrpc.InterpreterPort:
		return kindInterpreter
	default:
		return kindUser
	}
}

// locate says where a request is to go: to a box, or else to the control plane.
// The host decides if it is PORT-ID.anything or the control plane's; on other
// hosts the headers do, if they are there; then the signature of a file URL.
func (p *Proxy) locate(r *http.Request) (t target, toBox bool, err error) {
	host := normalHost(r.Host)
	if t, ok, err := parseHost(host); ok || err != nil {
		return t, err == nil, err
	}
	if p.domain != "" && host == "api."+p.domain {
		return target{}, false, nil
	}
	id, port := r.Header.Get(idHeader), r.Header.Get(portHeader)
	switch {
	case id != "" && port != "":
		t, err := parseTarget(id, port)
		return t, err == nil, err
	case id != "" || port != "":
		return target{}, false, &answer{
			Code: http.StatusBadRequest, Message: "The headers " + idHeader + " and " + portHeader + " must be sent together",
		}
	case signedFile(r):
		id, err := p.signer(r)
		return target{id, boxrpc.EnvdPort}, err == nil, err
	case strings.HasPrefix(host, "sandbox."):
		return target{}, false, &answer{
			Code: http.StatusBadRequest, Message: "This host needs the headers " + idHeader + " and " + portHeader,
		}
	default:
		return target{}, false, nil
	}
}

// normalHost returns the name in a Host header: no port, no dot at the end, lower case.
func normalHost(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// parseHost reads PORT-ID off a normal host's first label. It reports false for a
// host that does not begin so.
func parseHost(host string) (target, bool, error) {
	label, _, _ := strings.Cut(host, ".")
	port, id, ok := strings.Cut(label, "-")
	if !ok || port == "" || id == "" || strings.Trim(port, "0123456789") != "" {
		return target{}, false, nil
	}
	t, err := parseTarget(id, port)
	return t, err == nil, err
}

// parseTarget reads an id, from which what E2B's first SDKs append ("-" and a
// client id) is cut, and a port.
func parseTarget(id, port string) (target, error) {
	id, _, _ = strings.Cut(id, "-")
	if id == "" || len(id) > maxID || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		return target{}, &answer{Code: http.StatusBadRequest, Message: "The sandbox id is not valid"}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return target{}, &answer{Code: http.StatusBadRequest, SandboxID: id, Message: "The port is not valid"}
	}
	return target{id, int(n)}, nil
}

// internalRoutes are envd's for the host alone.
var internalRoutes = map[string]bool{
	"init": true, "limits": true, "freeze": true, "unfreeze": true, "collapse": true,
	"fsfreeze": true, "fsthaw": true, "upgrade": true,
}

// internal reports whether a URL may not pass to envd: because it names an
// internal route, or is written in a way in which no client of envd writes one,
// so that envd could read it as something else than we do.
func internal(u *url.URL) bool {
	p := u.Path
	if u.Opaque != "" || u.EscapedPath() != p || strings.ContainsAny(p, `\;%`) {
		return true
	}
	if cleaned := path.Clean(p); cleaned != p && cleaned+"/" != p {
		return true
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return internalRoutes[strings.ToLower(first)]
}

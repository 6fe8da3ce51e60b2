package client_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/cli/fakeserver"
)

// TestSilentEnd: a box whose network is gone cuts no stream. The server is asked,
// and the stream ends with the sandbox's end.
func TestSilentEnd(t *testing.T) {
	end := bulkhead.End{Cause: bulkhead.CauseMemoryLimit, Limit: 64 << 20}
	envd, _ := newEnvd(t)
	var srv *fakeserver.Server
	silent := make(chan struct{})
	srv = &fakeserver.Server{Box: func(sb bulkhead.Sandbox, port int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			began := &began{ResponseWriter: w, then: func() { srv.End(sb.ID, end) }}
			if port == boxrpc.EnvdPort {
				envd.ServeHTTP(began, r)
			} else {
				_, _ = io.WriteString(began, `{"type":"stdout","text":"one"}`+"\n")
			}
			<-silent // what a connection does that leads nowhere
		})
	}}
	c := serve(t, srv)
	t.Cleanup(func() { close(silent) }) // before the server closes

	sb := create(t, c)
	run, err := sb.RunCode(t.Context(), "1", client.CodeOptions{})
	if err != nil || run.End.Cause != end.Cause || run.Stdout != "one" {
		t.Errorf("RunCode gave %+v, %v; want the sandbox's end", run, err)
	}

	sb = create(t, c)
	out, err := sb.Exec(t.Context(), client.Shell("echo one; sleep 60"), nil)
	if err != nil || out.End.Cause != end.Cause {
		t.Errorf("Exec gave %+v, %v; want the sandbox's end", out, err)
	}

	sb = create(t, c)
	for _, err := range sb.Files().Watch(t.Context(), "", false) {
		wantCode(t, err, bulkhead.CodeNotFound)
	}
}

// began calls then once something that holds on was written.
type began struct {
	http.ResponseWriter
	on   string
	then func()
}

func (b *began) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p)
	if b.then != nil && strings.Contains(string(p), b.on) {
		b.Flush()
		b.then()
		b.then = nil
	}
	return n, err
}

func (b *began) Flush() { _ = http.NewResponseController(b.ResponseWriter).Flush() }

func (b *began) Unwrap() http.ResponseWriter { return b.ResponseWriter }

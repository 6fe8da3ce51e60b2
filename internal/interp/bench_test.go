package interp

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// BenchmarkExecute measures `1+1` from the request to the end of the stream, over
// HTTP on the loopback.
func BenchmarkExecute(b *testing.B) {
	for _, c := range []struct{ name, body string }{
		{"python", `{"code":"1+1"}`},
		{"bash", `{"code":"echo 2","language":"bash"}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			box := startPython(b, Config{})
			run := func() {
				resp, err := http.Post(box.url+"/execute", "application/json", bytes.NewReader([]byte(c.body)))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			run() // starts the kernel
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				run()
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkRebind measures what a lease costs.
func BenchmarkRebind(b *testing.B) {
	box := startPython(b, Config{})
	init := boxrpc.Init{SandboxID: "i", Seed: make([]byte, 32), Env: map[string]string{"A": "1"}}
	for b.Loop() {
		if err := box.srv.Rebind(b.Context(), init); err != nil {
			b.Fatal(err)
		}
	}
}

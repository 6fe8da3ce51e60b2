package envd

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// recorder remembers whether a deadline was set at each step.
type recorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
	steps    []string
}

func (r *recorder) SetWriteDeadline(at time.Time) error {
	r.deadline = at
	return nil
}

func (r *recorder) note(step string) {
	if left := time.Until(r.deadline); left > writeStall/2 && left <= writeStall {
		step += " within a deadline"
	}
	r.steps = append(r.steps, step)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.note("write")
	return r.ResponseRecorder.Write(p) //nolint:wrapcheck // it stands for the writer
}

func (r *recorder) Flush() {
	r.note("flush")
	r.ResponseRecorder.Flush()
}

// TestWriteDeadlines: every write has a deadline of its own, and a stream on
// which nothing happens has none, since over HTTP/2 that would end it.
func TestWriteDeadlines(t *testing.T) {
	r := &recorder{ResponseRecorder: httptest.NewRecorder(), deadline: time.Unix(1, 0)}
	withDeadlines(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.note("begin")
		if _, err := w.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		flusher, ok := w.(http.Flusher)
		if !ok {
			t.Fatal("the writer cannot flush")
		}
		flusher.Flush()
		if !r.deadline.IsZero() {
			t.Errorf("deadline = %v between writes", r.deadline)
		}
	})).ServeHTTP(r, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
	r.note("end")
	want := []string{"begin", "write within a deadline", "flush within a deadline", "end within a deadline"}
	for i, step := range want {
		if i >= len(r.steps) || r.steps[i] != step {
			t.Fatalf("steps = %q; want %q", r.steps, want)
		}
	}
}

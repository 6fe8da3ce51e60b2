package proc

import (
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"
)

// TestHubWaitsForSlowSubscribers: nothing piles up for a subscriber that does
// not read, and one that leaves holds nobody up.
func TestHubWaitsForSlowSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub
		slow, err := h.subscribe()
		if err != nil {
			t.Fatal(err)
		}
		given := 0
		go func() {
			for range 3 * queued {
				h.publish(stdoutChunk([]byte("x")))
				given++
			}
			h.close()
		}()
		synctest.Wait()
		if given != queued || len(slow.chunks) != queued {
			t.Fatalf("%d chunks were given out and %d wait; want %d", given, len(slow.chunks), queued)
		}
		<-slow.chunks
		synctest.Wait()
		if given != queued+1 {
			t.Errorf("%d chunks were given out after one was read; want %d", given, queued+1)
		}
		slow.leave()
		slow.leave()
		synctest.Wait()
		if given != 3*queued {
			t.Errorf("%d chunks were given out after the subscriber left; want %d", given, 3*queued)
		}
		late, err := h.subscribe()
		if err != nil {
			t.Fatal(err)
		}
		if _, more := <-late.chunks; more {
			t.Error("a closed hub gave a chunk")
		}
		h.publish(stdoutChunk(nil))
	})
}

func TestHubBoundsSubscribers(t *testing.T) {
	var h hub
	for range maxSubscribers {
		if _, err := h.subscribe(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.subscribe(); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("error = %v; want resource_exhausted", err)
	}
}

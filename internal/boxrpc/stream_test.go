package boxrpc_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

func TestStreamHeaders(t *testing.T) {
	for _, test := range []struct {
		value     string
		keepalive time.Duration
		timeout   time.Duration
	}{
		{"", 90 * time.Second, 0},
		{"50", 50 * time.Second, 50 * time.Millisecond},
		{"3600", time.Hour, 3600 * time.Millisecond},
		{"3601", 90 * time.Second, 3601 * time.Millisecond},
		{"0", 90 * time.Second, 0},
		{"-5", 90 * time.Second, 0},
		{"1.5", 90 * time.Second, 0},
		{"9999999999", 90 * time.Second, 9999999999 * time.Millisecond},
		{"99999999999", 90 * time.Second, 0}, // longer than the protocol allows
	} {
		if got := boxrpc.Keepalive(http.Header{boxrpc.KeepaliveHeader: {test.value}}); got != test.keepalive {
			t.Errorf("Keepalive(%q) = %v; want %v", test.value, got, test.keepalive)
		}
		if got := boxrpc.Timeout(http.Header{boxrpc.TimeoutHeader: {test.value}}); got != test.timeout {
			t.Errorf("Timeout(%q) = %v; want %v", test.value, got, test.timeout)
		}
	}
}

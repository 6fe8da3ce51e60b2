package boxrpc

import (
	"net/http"
	"strconv"
	"time"
)

// SandboxIDEnv is the variable that tells a box's programs which sandbox they are
// in; a box that has not become one yet has none.
const SandboxIDEnv = "E2B_SANDBOX_ID"

// TokenHeader carries the token that [Init] gave the box.
const TokenHeader = "X-Access-Token"

// KeepaliveHeader carries, in whole seconds, how often a stream on which nothing
// happens sends a keepalive.
const KeepaliveHeader = "Keepalive-Ping-Interval"

// Keepalive returns the interval that h asks for, 1 s to 1 h, and 90 s when it
// asks for none or for something else.
func Keepalive(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get(KeepaliveHeader))
	if err != nil || seconds < 1 || seconds > 3600 {
		return 90 * time.Second
	}
	return time.Duration(seconds) * time.Second
}

// TimeoutHeader carries, in milliseconds, how long a call may take.
const TimeoutHeader = "Connect-Timeout-Ms"

// Timeout returns the time limit that h sets; 0 means none.
func Timeout(h http.Header) time.Duration {
	text := h.Get(TimeoutHeader)
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || len(text) > 10 { // as the Connect protocol has it
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

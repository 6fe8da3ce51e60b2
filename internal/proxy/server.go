package proxy

import (
	"log/slog"
	"net/http"
	"time"
)

const (
	// maxStreamsPerConn is HTTP/2's limit on one connection. The SDKs put
	// everything on one, and a running command holds a stream.
	maxStreamsPerConn = 4096
	// maxRequestHeader bounds a request's head, in bytes.
	maxRequestHeader = 64 << 10
)

// NewServer returns a server for h with the bounds that a listener to the outside
// needs and no limit on how long a stream may last: HTTP/1.1, HTTP/2 over TLS and
// HTTP/2 in clear text with prior knowledge. The caller serves and shuts it down.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreamsPerConn,
			SendPingTimeout:      30 * time.Second, // finds peers that are gone without a word
			PingTimeout:          15 * time.Second,
		},
	}
}

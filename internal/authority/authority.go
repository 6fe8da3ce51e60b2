// Package authority gives the server its TLS certificate: the operator's own, or
// one from a private authority that it makes on the first run.
//
// The private authority's certificate is limited by name constraints to the
// configured domain and localhost, so that trusting it on a laptop trusts nothing
// else. Files are written whole or not at all, with mode 0600. What is served
// follows renewal, and changes to the operator's files, without a restart.
package authority

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// checkEvery is how often Run looks whether the certificate is to be replaced.
const checkEvery = time.Hour

// The names of the files in Config.Dir.
const (
	caCertFile   = "ca.crt"
	caKeyFile    = "ca.key"
	leafCertFile = "server.crt"
	leafKeyFile  = "server.key"
)

// Config says which certificate to serve.
type Config struct {
	// Dir holds the private authority's files. It is made if there is none.
	Dir string
	// Domain is served with all names one label below it, so that it covers
	// PORT-ID.Domain. Empty means localhost alone. A port in it is ignored.
	Domain string
	// Hosts are further DNS names and IP addresses of this server. localhost,
	// 127.0.0.1 and ::1 are always among them. DNS names outside Domain are
	// refused: the authority may not speak for them.
	Hosts []string
	// CertFile and KeyFile are the operator's own, in PEM; both or neither. With
	// them no authority is made and the fields above are not used.
	CertFile string
	KeyFile  string
	// Log gets a line for each certificate that is made or loaded.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Authority serves one certificate. It may be used by any number of goroutines.
type Authority struct {
	cfg  Config
	leaf atomic.Pointer[tls.Certificate]
	own  fileStamp // of the operator's files when they were last read; Run's only
}

// Open loads the certificate, and makes it first if it has to. Code: invalid for
// a Config that cannot be served.
func Open(cfg Config) (*Authority, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid,
			"TLS certificate file is %q and key file is %q; give both or neither", cfg.CertFile, cfg.KeyFile)
	}
	cfg.Domain = strings.ToLower(hostOnly(cfg.Domain))
	a := &Authority{cfg: cfg}
	if err := a.refresh(); err != nil {
		return nil, err
	}
	return a, nil
}

// TLSConfig returns a configuration that serves the current certificate over
// HTTP/2 and HTTP/1.1, with TLS 1.2 or later.
func (a *Authority) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.leaf.Load(), nil
		},
	}
}

// CAFile returns the path of the certificate that clients must trust, empty when
// the operator's own certificate is served.
func (a *Authority) CAFile() string {
	if a.cfg.CertFile != "" {
		return ""
	}
	return filepath.Join(a.cfg.Dir, caCertFile)
}

// Run replaces the certificate when a third of its life is left, and reads the
// operator's files again when they change, until ctx ends. It returns ctx's error.
func (a *Authority) Run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := a.refresh(); err != nil {
				a.cfg.Log.ErrorContext(ctx, "refresh the TLS certificate; the one before is still served", "error", err)
			}
		}
	}
}

// refresh makes sure that the certificate served is good and current.
func (a *Authority) refresh() error {
	if a.cfg.CertFile != "" {
		return a.loadOwn()
	}
	if leaf := a.leaf.Load(); leaf != nil && !due(leaf.Leaf, a.cfg.Now()) {
		return nil
	}
	leaf, err := a.ensureLeaf()
	if err != nil {
		return err
	}
	a.leaf.Store(leaf)
	return nil
}

// fileStamp tells one version of the operator's files from another.
type fileStamp struct{ cert, key time.Time }

// loadOwn reads the operator's files if they changed since the last time.
func (a *Authority) loadOwn() error {
	var stamp fileStamp
	for _, f := range []struct {
		path string
		at   *time.Time
	}{{a.cfg.CertFile, &stamp.cert}, {a.cfg.KeyFile, &stamp.key}} {
		info, err := os.Stat(f.path)
		if err != nil {
			return fmt.Errorf("read TLS certificate: %w", err)
		}
		*f.at = info.ModTime()
	}
	if stamp == a.own {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(a.cfg.CertFile, a.cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("read TLS certificate: %w", err)
	}
	if now := a.cfg.Now(); now.After(cert.Leaf.NotAfter) {
		return fmt.Errorf("read TLS certificate: %w",
			errors.New("it expired at "+cert.Leaf.NotAfter.Format(time.RFC3339)))
	}
	a.own = stamp
	a.leaf.Store(&cert)
	a.cfg.Log.Info("loaded the TLS certificate", "file", a.cfg.CertFile, "names", cert.Leaf.DNSNames,
		"expires", cert.Leaf.NotAfter)
	return nil
}

// names returns what the leaf is for.
func (a *Authority) names() (dns []string, ips []net.IP, err error) {
	dns = []string{"localhost", "*.localhost"}
	ips = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	if d := a.cfg.Domain; d != "" && d != "localhost" {
		dns = append(dns, d, "*."+d)
	}
	for _, h := range a.cfg.Hosts {
		h = strings.ToLower(h)
		switch ip := net.ParseIP(h); {
		case ip != nil:
			ips = append(ips, ip)
		case h == a.cfg.Domain || h == "localhost" || strings.HasSuffix(h, ".localhost"),
			a.cfg.Domain != "" && strings.HasSuffix(h, "."+a.cfg.Domain):
			dns = append(dns, h)
		default:
			return nil, nil, bulkhead.Errorf(bulkhead.CodeInvalid,
				"TLS host %q is not below the domain %q; use a certificate of your own for it", h, a.cfg.Domain)
		}
	}
	return dns, ips, nil
}

// hostOnly cuts a port off.
func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}

package authority_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/authority"
)

func open(t *testing.T, cfg authority.Config) *authority.Authority {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	a, err := authority.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// served returns the certificate that a client would be shown.
func served(t *testing.T, a *authority.Authority) *x509.Certificate {
	t.Helper()
	c, err := a.TLSConfig().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf
}

func roots(t *testing.T, a *authority.Authority) *x509.CertPool {
	t.Helper()
	b, err := os.ReadFile(a.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("the authority's file holds no certificate")
	}
	return pool
}

func TestClientsThatTrustTheAuthority(t *testing.T) {
	a := open(t, authority.Config{Dir: t.TempDir(), Domain: "E2B.test:38443", Hosts: []string{"10.1.2.3", "box.e2b.test"}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		TLSConfig: a.TLSConfig(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Proto", r.Proto) }),
	}
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	defer func() { _ = srv.Close() }()

	for host, ok := range map[string]bool{
		"49983-ixyz.e2b.test": true, "e2b.test": true, "api.e2b.test": true, "box.e2b.test": true,
		"localhost": true, "3000-ixyz.localhost": true, "127.0.0.1": true, "::1": true, "10.1.2.3": true,
		"e2b.example": false, "a.b.e2b.test": false, "10.1.2.4": false,
	} {
		client := &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots(t, a), ServerName: host},
		}}
		res, err := client.Get("https://" + ln.Addr().String())
		if (err == nil) != ok {
			t.Errorf("%s: got %v, want success: %v", host, err, ok)
		}
		if err == nil {
			if got := res.Header.Get("Proto"); got != "HTTP/2.0" {
				t.Errorf("%s: served over %s, want HTTP/2.0", host, got)
			}
			_ = res.Body.Close()
		}
		client.CloseIdleConnections()
	}
}

// Whoever steals the authority's key can not use it for other domains.
func TestAuthorityIsForItsDomainOnly(t *testing.T) {
	dir := t.TempDir()
	a := open(t, authority.Config{Dir: dir, Domain: "e2b.test"})
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{"bank.example": false, "note2b.test": false, "www.e2b.test": true} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, ca.Leaf, key.Public(), ca.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots(t, a), DNSName: name}); (err == nil) != ok {
			t.Errorf("%s: got %v, want success: %v", name, err, ok)
		}
	}
}

func TestKeepsWhatItMade(t *testing.T) {
	dir := t.TempDir()
	first := open(t, authority.Config{Dir: dir, Domain: "e2b.test"})
	again := open(t, authority.Config{Dir: dir, Domain: "e2b.test"})
	if !served(t, first).Equal(served(t, again)) {
		t.Error("a restart made another certificate")
	}
	more := open(t, authority.Config{Dir: dir, Domain: "e2b.test", Hosts: []string{"10.1.2.3"}})
	if served(t, more).Equal(served(t, again)) || served(t, more).VerifyHostname("10.1.2.3") != nil {
		t.Error("a further host is not in the certificate")
	}
	if !roots(t, first).Equal(roots(t, more)) {
		t.Error("a further host made another authority")
	}
	other := open(t, authority.Config{Dir: dir, Domain: "other.test"})
	opts := x509.VerifyOptions{Roots: roots(t, other), DNSName: "1-i.other.test"}
	if _, err := served(t, other).Verify(opts); err != nil {
		t.Errorf("after the domain changed: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("%d files, %v; want 4 and nothing half-written", len(entries), err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", e.Name(), info.Mode(), err)
		}
	}
}

func TestMakesAnewWhatIsBroken(t *testing.T) {
	for _, name := range []string{"server.crt", "server.key", "ca.crt", "ca.key"} {
		for what, damage := range map[string]func(string) error{
			"missing": os.Remove,
			"garbage": func(p string) error { return os.WriteFile(p, []byte("garbage"), 0o600) },
		} {
			dir := t.TempDir()
			open(t, authority.Config{Dir: dir, Domain: "e2b.test"})
			if err := damage(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			a := open(t, authority.Config{Dir: dir, Domain: "e2b.test"})
			if _, err := served(t, a).Verify(x509.VerifyOptions{Roots: roots(t, a), DNSName: "1-i.e2b.test"}); err != nil {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
}

func TestRenewsBeforeExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, authority.Config{Dir: t.TempDir(), Domain: "e2b.test"})
		go func() { _ = a.Run(t.Context()) }()
		first := served(t, a)
		for range 400 { // days: the certificate must be good on each
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			opts := x509.VerifyOptions{Roots: roots(t, a), DNSName: "1-i.e2b.test", CurrentTime: time.Now()}
			if _, err := served(t, a).Verify(opts); err != nil {
				t.Fatalf("on %v: %v", time.Now(), err)
			}
		}
		if served(t, a).Equal(first) {
			t.Error("the certificate is the first one still")
		}
	})
}

func TestOwnCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := authority.Config{CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem")}
		writeOwn(t, cfg, "first.example", time.Now())
		a := open(t, cfg)
		if a.CAFile() != "" {
			t.Errorf("an authority was made: %s", a.CAFile())
		}
		go func() { _ = a.Run(t.Context()) }()
		if err := served(t, a).VerifyHostname("first.example"); err != nil {
			t.Error(err)
		}
		for _, c := range []struct{ write, want string }{
			{"second.example", "second.example"},
			{"", "second.example"}, // broken files do not replace what works
			{"third.example", "third.example"},
		} {
			time.Sleep(time.Minute)
			writeOwn(t, cfg, c.write, time.Now())
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if err := served(t, a).VerifyHostname(c.want); err != nil {
				t.Errorf("after writing %q: %v", c.write, err)
			}
		}
	})
}

// writeOwn writes a self-signed pair for name, or garbage when that is empty.
func writeOwn(t *testing.T, cfg authority.Config, name string, at time.Time) {
	t.Helper()
	cert, key := []byte("garbage"), []byte("garbage")
	if name != "" {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: at.Add(1000 * time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	}
	for path, b := range map[string][]byte{cfg.CertFile: cert, cfg.KeyFile: key} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, cfg := range map[string]authority.Config{
		"certificate without key": {Dir: dir, CertFile: "x"},
		"key without certificate": {Dir: dir, KeyFile: "x"},
		"foreign host":            {Dir: dir, Domain: "e2b.test", Hosts: []string{"www.example.com"}},
		"foreign host, no domain": {Dir: dir, Hosts: []string{"www.example.com"}},
	} {
		cfg.Log = slog.New(slog.DiscardHandler)
		if _, err := authority.Open(cfg); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	missing := authority.Config{CertFile: filepath.Join(dir, "none"), KeyFile: filepath.Join(dir, "none"), Log: slog.New(slog.DiscardHandler)}
	if _, err := authority.Open(missing); err == nil {
		t.Error("opened a certificate file that is not there")
	}
	var old authority.Config
	old.CertFile, old.KeyFile, old.Log = filepath.Join(dir, "c"), filepath.Join(dir, "k"), slog.New(slog.DiscardHandler)
	writeOwn(t, old, "old.example", time.Now().Add(-2000*time.Hour))
	if _, err := authority.Open(old); err == nil {
		t.Error("opened a certificate that expired")
	}
}

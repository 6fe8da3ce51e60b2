package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// caLife is how long clients can go on trusting the authority.
	caLife = 10 * 365 * 24 * time.Hour
	// leafLife is under the 398 days that Apple's clients allow.
	leafLife = 90 * 24 * time.Hour
	// backdate allows for clients whose clock is behind.
	backdate = time.Hour
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// ensureLeaf returns the leaf in the directory, or a new one when there is none,
// it does not have the names, or its time has come.
func (a *Authority) ensureLeaf() (*tls.Certificate, error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make TLS directory: %w", err)
	}
	dns, ips, err := a.names()
	if err != nil {
		return nil, err
	}
	ca, err := a.ensureCA()
	if err != nil {
		return nil, err
	}
	leaf, err := a.read(leafCertFile, leafKeyFile)
	if err != nil {
		return nil, err
	}
	if leaf == nil || due(leaf.cert, a.cfg.Now()) || leaf.cert.CheckSignatureFrom(ca.cert) != nil ||
		!covers(leaf.cert, dns, ips) {
		if leaf, err = a.issue(ca, dns, ips); err != nil {
			return nil, err
		}
		a.cfg.Log.Info("made a TLS certificate", "names", dns, "expires", leaf.cert.NotAfter)
	}
	return &tls.Certificate{
		Certificate: [][]byte{leaf.cert.Raw, ca.cert.Raw}, PrivateKey: leaf.key, Leaf: leaf.cert,
	}, nil
}

// ensureCA returns the authority in the directory, or a new one when there is
// none, it is for another domain, or its time has come.
func (a *Authority) ensureCA() (*pair, error) {
	permitted := []string{"localhost"}
	if a.cfg.Domain != "" && a.cfg.Domain != "localhost" {
		permitted = append(permitted, a.cfg.Domain)
	}
	ca, err := a.read(caCertFile, caKeyFile)
	if err != nil {
		return nil, err
	}
	if ca != nil && !due(ca.cert, a.cfg.Now()) && slices.Equal(ca.cert.PermittedDNSDomains, permitted) {
		return ca, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	id, err := keyID(key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	now := a.cfg.Now()
	made, err := a.sign(&x509.Certificate{
		Subject:                     pkix.Name{Organization: []string{"Bulkhead"}, CommonName: "Bulkhead authority for " + permitted[len(permitted)-1]},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(caLife),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		SubjectKeyId:                id,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         permitted,
	}, key, nil)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	if err := a.writePair(made, caCertFile, caKeyFile); err != nil {
		return nil, err
	}
	a.cfg.Log.Info("made a TLS authority; clients must trust its certificate", "file", a.CAFile(), "domains", permitted)
	return made, nil
}

// issue makes a leaf and writes it.
func (a *Authority) issue(ca *pair, dns []string, ips []net.IP) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	now := a.cfg.Now()
	notAfter := now.Add(leafLife)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	leaf, err := a.sign(&x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"Bulkhead"}, CommonName: dns[len(dns)-1]},
		NotBefore:   now.Add(-backdate),
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    dns,
		IPAddresses: ips,
	}, key, ca)
	if err != nil {
		return nil, fmt.Errorf("make TLS certificate: %w", err)
	}
	return leaf, a.writePair(leaf, leafCertFile, leafKeyFile)
}

// sign signs template for key by ca, by itself when ca is nil.
func (a *Authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey, ca *pair) (*pair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	parent, signer := template, key
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &pair{cert, key}, nil
}

// read returns the pair in two files of the directory, nil when one is missing. A
// pair that does not match, as after a crash between the two writes, counts as
// missing too.
func (a *Authority) read(certFile, keyFile string) (*pair, error) {
	loaded, err := tls.LoadX509KeyPair(filepath.Join(a.cfg.Dir, certFile), filepath.Join(a.cfg.Dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("read TLS files: %w", err)
	}
	key, ok := loaded.PrivateKey.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		a.cfg.Log.Warn("the TLS files do not fit together and are made anew", "file", certFile, "error", err)
		return nil, nil
	}
	return &pair{loaded.Leaf, key}, nil
}

// writePair writes the key first: a certificate without its key is of no use.
func (a *Authority) writePair(p *pair, certFile, keyFile string) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("encode TLS key: %w", err)
	}
	if err := a.writeFile(keyFile, "PRIVATE KEY", der); err != nil {
		return err
	}
	return a.writeFile(certFile, "CERTIFICATE", p.cert.Raw)
}

// writeFile writes one PEM block, whole or not at all, with mode 0600 (which is
// what os.CreateTemp gives).
func (a *Authority) writeFile(name, block string, der []byte) (err error) {
	f, err := os.CreateTemp(a.cfg.Dir, name+".*")
	if err != nil {
		return fmt.Errorf("write TLS file: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write TLS file: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	err = errors.Join(
		pem.Encode(f, &pem.Block{Type: block, Bytes: der}),
		f.Sync(),
		f.Close(),
	)
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(a.cfg.Dir, name))
}

// due reports whether a third of the certificate's life, or less, is left, or it
// is not valid yet.
func due(c *x509.Certificate, now time.Time) bool {
	return now.Before(c.NotBefore) || now.After(c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore)/3))
}

// covers reports whether c is for exactly these names.
func covers(c *x509.Certificate, dns []string, ips []net.IP) bool {
	return slices.Equal(c.DNSNames, dns) && slices.EqualFunc(c.IPAddresses, ips, net.IP.Equal)
}

// keyID names a key as RFC 7093 does: 160 bits of a SHA-256.
func keyID(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return sum[:20], nil
}

package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// signatureVersion begins every signature.
	signatureVersion = "v1_"
	// maxSignatureLookups bounds the searches under way for who signed a URL: each
	// costs a hash for every running sandbox, and anyone can ask for one.
	maxSignatureLookups = 2
)

// signedFile reports whether the request is for a signed file URL.
func signedFile(r *http.Request) bool {
	return r.URL.Path == "/files" && strings.Contains(r.URL.RawQuery, "signature="+signatureVersion)
}

// signer returns the id of the running sandbox whose token signed the URL. Where
// SDKs are given one URL for all sandboxes, nothing else in it says whose it is.
func (p *Proxy) signer(r *http.Request) (string, error) {
	select {
	case p.signed <- struct{}{}:
		defer func() { <-p.signed }()
	default:
		return "", &answer{
			Code: http.StatusServiceUnavailable, Retry: true,
			Message: "Too many signed URLs are being looked up; try again, or use the host PORT-ID.domain",
		}
	}
	running, err := p.cfg.Lister.List(r.Context(), bulkhead.Filter{States: []bulkhead.State{bulkhead.StateRunning}})
	if err != nil {
		p.cfg.Log.ErrorContext(r.Context(), "list sandboxes to find a signer", "error", err)
		return "", &answer{Code: http.StatusInternalServerError, Message: "The sandboxes could not be listed"}
	}
	operation := "read"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		operation = "write"
	}
	q := r.URL.Query()
	given := []byte(q.Get("signature"))
	for _, sb := range running {
		if sb.EnvdToken != "" && subtle.ConstantTimeCompare(given, []byte(sign(q, operation, sb.EnvdToken))) == 1 {
			return sb.ID, nil
		}
	}
	return "", &answer{Code: http.StatusUnauthorized, Message: "invalid signature"}
}

// sign is the signature of a file URL with these parameters.
func sign(q url.Values, operation, token string) string {
	text := q.Get("path") + ":" + operation + ":" + q.Get("username") + ":" + token
	if expires := q.Get("signature_expiration"); expires != "" {
		text += ":" + expires
	}
	sum := sha256.Sum256([]byte(text))
	return signatureVersion + base64.RawStdEncoding.EncodeToString(sum[:])
}

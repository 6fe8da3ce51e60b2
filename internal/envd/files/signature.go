package files

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
)

// Sign is the signature that lets whoever has it read or write one path of one
// user: operation is "read" or "write", user is "" for the default user, and
// expiration is the Unix time at which it ends, "" for never.
func Sign(path, operation, user, token, expiration string) string {
	parts := []string{path, operation, user, token}
	if expiration != "" {
		parts = append(parts, expiration)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// authorize checks that r may do operation on the path in its query: with the
// box's token, or with a signature. The error is an *[httpError].
func (s *Service) authorize(r *http.Request, query url.Values, operation string) error {
	in, _ := s.cfg.Box.Init()
	if in.AccessToken == "" {
		return nil
	}
	if token := r.Header.Get(boxrpc.TokenHeader); token != "" {
		if !s.cfg.Box.Holds(token) {
			return httpErrorf(http.StatusUnauthorized, "access token present in header but does not match")
		}
		return nil
	}
	if !query.Has("signature") {
		return httpErrorf(http.StatusUnauthorized, "missing signature query parameter")
	}
	expiration := query.Get("signature_expiration")
	want := Sign(query.Get("path"), operation, query.Get("username"), in.AccessToken, expiration)
	if subtle.ConstantTimeCompare([]byte(want), []byte(query.Get("signature"))) != 1 {
		return httpErrorf(http.StatusUnauthorized, "invalid signature")
	}
	if expiration != "" {
		at, err := strconv.ParseInt(expiration, 10, 64)
		if err != nil {
			return httpErrorf(http.StatusBadRequest, "signature_expiration is %.80q; it must be a Unix time", expiration)
		}
		if at < s.cfg.Now().Unix() {
			return httpErrorf(http.StatusUnauthorized, "signature is already expired")
		}
	}
	return nil
}

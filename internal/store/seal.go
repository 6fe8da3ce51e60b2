package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// SealKey is a key that the secrets of sandboxes are sealed with.
type SealKey [32]byte

// LoadSealKey reads the key in a file, and makes one in a file for its owner only if
// there is none. Two servers that do so at once get the same key.
func LoadSealKey(path string) (SealKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeSealKey(path); err != nil {
			return SealKey{}, fmt.Errorf("make seal key: %w", err)
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return SealKey{}, fmt.Errorf("read seal key: %w", err)
	}
	var key SealKey
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(b) != len(key) {
		return key, bulkhead.Errorf(bulkhead.CodeInvalid, "%s holds no key of %d hex digits", path, 2*len(key))
	}
	return SealKey(b), nil
}

// makeSealKey makes the file of a key, unless somebody else does.
func makeSealKey(path string) error {
	fresh := path + "." + randomHex(8)
	if err := writeDurably(fresh, randomHex(len(SealKey{}))+"\n"); err != nil {
		return err
	}
	return errors.Join(ignore(os.Link(fresh, path), fs.ErrExist), os.Remove(fresh))
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// writeDurably writes a file that must not be there, so that it survives a crash.
func writeDurably(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WithSeal makes the store seal the tokens and the environment of sandboxes, so
// that a copy of the database alone opens none. Rows that were written without it
// are read all the same.
func WithSeal(key SealKey) Option {
	return func(s *Store) {
		block, _ := aes.NewCipher(key[:]) // 32 bytes are a key
		s.aead, _ = cipher.NewGCM(block)  // and this is a cipher with blocks of 16
	}
}

// sealed marks a text that is sealed: the AES-GCM of it, after its nonce, in
// base64. What it is of is authenticated with it, so that no text can be put in
// another's place.
const sealed = "s1:"

// seal seals a text that is not empty, as the field of a sandbox.
func (s *Store) seal(sandbox, field, text string) string {
	if s.aead == nil || text == "" {
		return text
	}
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce)
	return sealed + base64.RawStdEncoding.EncodeToString(s.aead.Seal(nonce, nonce, []byte(text), []byte(sandbox+" "+field)))
}

// errSealed is that a text was sealed with another key, or was changed.
var errSealed = errors.New("cannot be unsealed with this key")

// unseal returns what seal was given.
func (s *Store) unseal(sandbox, field, text string) (string, error) {
	rest, ok := strings.CutPrefix(text, sealed)
	if !ok {
		return text, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(rest)
	if err != nil || s.aead == nil || len(b) < s.aead.NonceSize() {
		return "", errSealed
	}
	n := s.aead.NonceSize()
	plain, err := s.aead.Open(nil, b[:n], b[n:], []byte(sandbox+" "+field))
	if err != nil {
		return "", errSealed
	}
	return string(plain), nil
}

// unsealSandbox unseals the secrets of sb and returns its environment as JSON. Those
// that it cannot unseal become ones that nobody knows: the sandbox is there and
// can be ended, and its doors stay shut.
func (s *Store) unsealSandbox(sb *bulkhead.Sandbox, env string) string {
	lost := false
	for _, f := range []struct {
		field string
		text  *string
	}{{"envd_token", &sb.EnvdToken}, {"traffic_token", &sb.TrafficToken}} {
		plain, err := s.unseal(sb.ID, f.field, *f.text)
		if err != nil {
			plain, lost = rand.Text()+rand.Text(), true
		}
		*f.text = plain
	}
	env, err := s.unseal(sb.ID, "env", env)
	if err != nil {
		env, lost = "null", true
	}
	if lost && sb.State != bulkhead.StateEnded {
		s.log.WarnContext(context.Background(), "the tokens of a sandbox were sealed with another key; it can only be ended", "sandbox", sb.ID)
	}
	return env
}

package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// The scopes of a key. The set is closed.
const (
	// ScopeSandboxes lets a key use its tenant's sandboxes and see templates.
	ScopeSandboxes = "sandboxes"
	// ScopeAdmin lets a key make and revoke keys of any tenant and read metrics.
	ScopeAdmin = "admin"
)

const (
	// keyPrefix is what E2B's SDKs up to 2.45 insist on; after it they want hex.
	keyPrefix = "e2b_"
	// keyBytes is the entropy of a key; the same SDKs expect 40 hex digits.
	keyBytes = 20
	// shownPrefix is how much of a key is kept to recognise it by.
	shownPrefix = len(keyPrefix) + 4
	// maxName bounds names of keys and tenants, in bytes.
	maxName = 128
	// minSecret is the least length of a key that the operator brings.
	minSecret = 20
)

// Key is an API key without its secret.
type Key struct {
	// ID names the key: "key_" and 16 hex digits.
	ID string `json:"id"`
	// Tenant is who the key acts for.
	Tenant string `json:"tenant"`
	// Name is for people. It may be empty.
	Name string `json:"name"`
	// Prefix is the beginning of the secret.
	Prefix string `json:"prefix"`
	// Scopes say what the key may do.
	Scopes []string `json:"scopes"`
	// CreatedAt is when it was made.
	CreatedAt time.Time `json:"createdAt"`
	// RevokedAt is when it stopped to be good; zero while it is.
	RevokedAt time.Time `json:"revokedAt,omitzero"`
}

// May reports whether the key has the scope.
func (k Key) May(scope string) bool { return slices.Contains(k.Scopes, scope) }

// KeyRequest asks for a key.
type KeyRequest struct {
	// Tenant is who it acts for: 1 to 128 bytes.
	Tenant string
	// Name is for people: at most 128 bytes.
	Name string
	// Scopes default to [ScopeSandboxes] alone.
	Scopes []string
	// Secret is a key that the operator brings, of at least 20 bytes; empty means
	// that one is drawn.
	Secret string
}

// HashKey returns what is stored of a secret. The secrets are random, so a plain
// SHA-256 is enough: there is nothing to guess from.
func HashKey(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// CreateKey makes a key. The secret is returned this once and kept nowhere.
// Codes: invalid; conflict when a secret that the operator brings is known.
func (s *Store) CreateKey(ctx context.Context, req KeyRequest) (secret string, k Key, err error) {
	if err := req.validate(); err != nil {
		return "", Key{}, fmt.Errorf("create key: %w", err)
	}
	var raw [keyBytes + 8]byte
	_, _ = rand.Read(raw[:]) // it never fails: it ends the program first
	if secret = req.Secret; secret == "" {
		secret = keyPrefix + hex.EncodeToString(raw[:keyBytes])
	}
	k = Key{
		ID: "key_" + hex.EncodeToString(raw[keyBytes:]), Tenant: req.Tenant, Name: req.Name,
		Prefix: secret[:shownPrefix], Scopes: req.Scopes, CreatedAt: time.Now().UTC(),
	}
	if len(k.Scopes) == 0 {
		k.Scopes = []string{ScopeSandboxes}
	}
	scopes, err := json.Marshal(k.Scopes)
	if err != nil {
		return "", Key{}, fmt.Errorf("create key: encode scopes: %w", err)
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(tx.ExecContext(ctx, `INSERT INTO api_keys
			(id, hash, prefix, tenant, name, scopes, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (hash) DO NOTHING`,
			k.ID, hexHash(HashKey(secret)), k.Prefix, k.Tenant, k.Name, string(scopes), nanos(k.CreatedAt)))
		if n == 0 && err == nil {
			return bulkhead.Errorf(bulkhead.CodeConflict, "this key exists already")
		}
		return err
	})
	if err != nil {
		return "", Key{}, fmt.Errorf("create key: %w", err)
	}
	return secret, k, nil
}

// LookupKey returns the key whose secret has the given hash. Code: not_found,
// also for one that is revoked.
func (s *Store) LookupKey(ctx context.Context, hash [sha256.Size]byte) (Key, error) {
	k, err := scanKey(s.read.QueryRowContext(ctx, `SELECT id, tenant, name, prefix, scopes, created_at,
		revoked_at FROM api_keys WHERE hash = $1 AND revoked_at IS NULL`, hexHash(hash)))
	if errors.Is(err, sql.ErrNoRows) {
		return Key{}, bulkhead.Errorf(bulkhead.CodeNotFound, "the key is not known, or revoked")
	}
	if err != nil {
		return Key{}, fmt.Errorf("look up key: %w", err)
	}
	return k, nil
}

// RevokeKey ends a key, from the next request on. Revoking it again changes
// nothing. An empty tenant means any. Code: not_found.
func (s *Store) RevokeKey(ctx context.Context, tenant, id string) error {
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $3)
			WHERE id = $1 AND ($2 = '' OR tenant = $2)`, id, tenant, time.Now().UnixNano()))
		if n == 0 && err == nil {
			return bulkhead.Errorf(bulkhead.CodeNotFound, "key %q was not found", id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	return nil
}

// ListKeys returns the tenant's keys, revoked ones too, oldest first. An empty
// tenant means all.
func (s *Store) ListKeys(ctx context.Context, tenant string) (_ []Key, err error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, tenant, name, prefix, scopes, created_at, revoked_at
		FROM api_keys WHERE $1 = '' OR tenant = $1 ORDER BY created_at, id`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []Key
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return out, nil
}

func scanKey(row scanner) (Key, error) {
	var k Key
	var scopes string
	var created int64
	var revoked sql.NullInt64
	if err := row.Scan(&k.ID, &k.Tenant, &k.Name, &k.Prefix, &scopes, &created, &revoked); err != nil {
		return Key{}, err
	}
	k.CreatedAt, k.RevokedAt = fromNanos(created), fromNanos(revoked.Int64)
	if err := json.Unmarshal([]byte(scopes), &k.Scopes); err != nil {
		return Key{}, fmt.Errorf("decode scopes of key %s: %w", k.ID, err)
	}
	return k, nil
}

func (r KeyRequest) validate() error {
	switch {
	case r.Tenant == "" || len(r.Tenant) > maxName:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "tenant has %d bytes; it must have 1 to %d", len(r.Tenant), maxName)
	case len(r.Name) > maxName:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "name has %d bytes; it may have %d", len(r.Name), maxName)
	case r.Secret != "" && len(r.Secret) < minSecret:
		return bulkhead.Errorf(bulkhead.CodeInvalid, "secret has %d bytes; it must have at least %d", len(r.Secret), minSecret)
	}
	for i, scope := range r.Scopes {
		if scope != ScopeSandboxes && scope != ScopeAdmin {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "scopes[%d] is %q; it must be %q or %q",
				i, scope, ScopeSandboxes, ScopeAdmin)
		}
	}
	return nil
}

func hexHash(h [sha256.Size]byte) string { return hex.EncodeToString(h[:]) }

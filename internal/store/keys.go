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
	// ScopeRun lets a key use its tenant's sandboxes and scripts and see templates.
	ScopeRun = "run"
	// ScopeManage lets a key make and revoke its tenant's keys, and see its pools,
	// limits and usage.
	ScopeManage = "manage"
	// ScopeAdmin lets a key do all of that for any tenant, change tenants and
	// tiers, and read the audit log and metrics. It contains the other two.
	ScopeAdmin = "admin"
)

// Scopes returns all scopes, the least first.
func Scopes() []string { return []string{ScopeRun, ScopeManage, ScopeAdmin} }

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
	// maxRate bounds a key's rates, and leastRate those that are not 0.
	maxRate, leastRate = 1e6, 1e-3
)

// Grace is how long the secret before the last is good after a rotation, unless
// the caller says otherwise; MaxGrace is the longest.
const (
	Grace    = 24 * time.Hour
	MaxGrace = 30 * 24 * time.Hour
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
	// RequestsPerSecond and CreatesPerSecond bound how fast it may ask, and make
	// sandboxes, each with a burst of ten seconds' worth; 0 is unlimited.
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"`
	CreatesPerSecond  float64 `json:"createsPerSecond,omitempty"`
	// PreviousUntil is until when the secret before the last rotation is good;
	// zero if it was never rotated.
	PreviousUntil time.Time `json:"previousUntil,omitzero"`
	// RevokedAt is when it stopped to be good; zero while it is.
	RevokedAt time.Time `json:"revokedAt,omitzero"`
}

// May reports whether the key has the scope, or [ScopeAdmin].
func (k Key) May(scope string) bool {
	return slices.Contains(k.Scopes, scope) || slices.Contains(k.Scopes, ScopeAdmin)
}

// KeyRequest asks for a key.
type KeyRequest struct {
	// Tenant is who it acts for. It must exist.
	Tenant string
	// Name is for people: at most 128 bytes.
	Name string
	// Scopes default to [ScopeRun] alone.
	Scopes []string
	// RequestsPerSecond and CreatesPerSecond are as in [Key]: 0, or 0.001 to 1000000.
	RequestsPerSecond, CreatesPerSecond float64
	// Secret is a key that the operator brings, of at least 20 bytes; empty means
	// that one is drawn.
	Secret string
}

// KeyChange is what changes of a key; a nil field stays.
type KeyChange struct {
	// Name, RequestsPerSecond and CreatesPerSecond are as in [KeyRequest].
	Name                                *string
	RequestsPerSecond, CreatesPerSecond *float64
}

// HashKey returns what is stored of a secret. The secrets are random, so a plain
// SHA-256 is enough: there is nothing to guess from.
func HashKey(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// CreateKey makes a key. The secret is returned this once and kept nowhere.
// Codes: invalid; not_found for a tenant that there is not; conflict when a secret
// that the operator brings is known.
func (s *Store) CreateKey(ctx context.Context, req KeyRequest) (secret string, k Key, err error) {
	if err := req.validate(); err != nil {
		return "", Key{}, fmt.Errorf("create key: %w", err)
	}
	if secret = req.Secret; secret == "" {
		secret = keyPrefix + randomHex(keyBytes)
	}
	k = Key{
		ID: "key_" + randomHex(8), Tenant: req.Tenant, Name: req.Name,
		Prefix: secret[:shownPrefix], Scopes: req.Scopes, CreatedAt: time.Now().UTC(),
		RequestsPerSecond: req.RequestsPerSecond, CreatesPerSecond: req.CreatesPerSecond,
	}
	if len(k.Scopes) == 0 {
		k.Scopes = []string{ScopeRun}
	}
	scopes, err := json.Marshal(k.Scopes)
	if err != nil {
		return "", Key{}, fmt.Errorf("create key: encode scopes: %w", err)
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := needTenant(ctx, tx, k.Tenant); err != nil {
			return err
		}
		n, err := changed(tx.ExecContext(ctx, `INSERT INTO api_keys
			(id, hash, prefix, tenant, name, scopes, created_at, requests_per_second, creates_per_second)
			SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE NOT EXISTS (SELECT 1 FROM api_keys WHERE previous_hash = $2)
			ON CONFLICT (hash) DO NOTHING`,
			k.ID, hexHash(HashKey(secret)), k.Prefix, k.Tenant, k.Name, string(scopes), nanos(k.CreatedAt),
			k.RequestsPerSecond, k.CreatesPerSecond))
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

const keyColumns = `id, tenant, name, prefix, scopes, created_at, revoked_at,
	previous_until, requests_per_second, creates_per_second`

// LookupKey returns the key whose secret, or the one before it while that is
// good, has the given hash; from memory when it was read before. Code: not_found,
// also for one that is revoked.
func (s *Store) LookupKey(ctx context.Context, hash [sha256.Size]byte) (Key, error) {
	found, err := s.keys.get(ctx, hash, s.readKey)
	if err != nil {
		return Key{}, err
	}
	if !found.until.IsZero() && !time.Now().Before(found.until) {
		return Key{}, errNoKey
	}
	return found.Key, nil
}

// keyBySecret is a key, and until when the secret that led to it is good; zero is
// for ever.
type keyBySecret struct {
	Key

	until time.Time
}

// errNoKey is that a secret leads to no key, or no longer.
var errNoKey = bulkhead.Errorf(bulkhead.CodeNotFound, "the key is not known, or revoked")

func (s *Store) readKey(ctx context.Context, hash [sha256.Size]byte) (keyBySecret, error) {
	h := hexHash(hash)
	k, err := scanKey(s.read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys
		WHERE hash = $1 AND revoked_at IS NULL`, h))
	if err == nil {
		return keyBySecret{Key: k}, nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		if k, err = scanKey(s.read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys
			WHERE previous_hash = $1 AND revoked_at IS NULL`, h)); err == nil {
			return keyBySecret{k, k.PreviousUntil}, nil
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return keyBySecret{}, errNoKey
	}
	return keyBySecret{}, fmt.Errorf("look up key: %w", fault(err))
}

// RotateKey gives a key a new secret, which is returned this once. The one that
// it replaces is good for grace more, 0 to [MaxGrace]; one that an earlier
// rotation replaced is not good any more. An empty tenant means any. Codes:
// invalid; not_found; conflict for a key that is revoked.
func (s *Store) RotateKey(ctx context.Context, tenant, id string, grace time.Duration) (secret string, k Key, err error) {
	if grace < 0 || grace > MaxGrace {
		return "", Key{}, fmt.Errorf("rotate key: %w",
			bulkhead.Errorf(bulkhead.CodeInvalid, "grace is %s; it must be between 0s and %s", grace, MaxGrace))
	}
	secret = keyPrefix + randomHex(keyBytes)
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if k, err = keyOf(ctx, tx, tenant, id); err != nil {
			return err
		}
		if !k.RevokedAt.IsZero() {
			return bulkhead.Errorf(bulkhead.CodeConflict, "key %q is revoked", id)
		}
		k.Prefix, k.PreviousUntil = secret[:shownPrefix], time.Now().UTC().Add(grace)
		_, err = tx.ExecContext(ctx, `UPDATE api_keys SET previous_hash = hash, previous_until = $2, hash = $3, prefix = $4
			WHERE id = $1`, id, nanos(k.PreviousUntil), hexHash(HashKey(secret)), k.Prefix)
		return err
	})
	s.keys.drop()
	if err != nil {
		return "", Key{}, fmt.Errorf("rotate key: %w", err)
	}
	return secret, k, nil
}

// ChangeKey changes a key's name or rates, from the next request on. An empty
// tenant means any. Codes: invalid; not_found; conflict for a key that is revoked.
func (s *Store) ChangeKey(ctx context.Context, tenant, id string, c KeyChange) (k Key, err error) {
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if k, err = keyOf(ctx, tx, tenant, id); err != nil {
			return err
		}
		if !k.RevokedAt.IsZero() {
			return bulkhead.Errorf(bulkhead.CodeConflict, "key %q is revoked", id)
		}
		assign(&k.Name, c.Name)
		assign(&k.RequestsPerSecond, c.RequestsPerSecond)
		assign(&k.CreatesPerSecond, c.CreatesPerSecond)
		req := KeyRequest{Tenant: k.Tenant, Name: k.Name, RequestsPerSecond: k.RequestsPerSecond, CreatesPerSecond: k.CreatesPerSecond}
		if err := req.validate(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE api_keys SET name = $2, requests_per_second = $3, creates_per_second = $4
			WHERE id = $1`, id, k.Name, k.RequestsPerSecond, k.CreatesPerSecond)
		return err
	})
	s.keys.drop()
	if err != nil {
		return Key{}, fmt.Errorf("change key: %w", err)
	}
	return k, nil
}

// assign sets field to value unless that is nil.
func assign[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

// Key returns one key, revoked ones too. An empty tenant means any. Code:
// not_found, also for another tenant's.
func (s *Store) Key(ctx context.Context, tenant, id string) (Key, error) {
	k, err := keyOf(ctx, s.read, tenant, id)
	return k, fault(err)
}

func keyOf(ctx context.Context, db queryer, tenant, id string) (Key, error) {
	k, err := scanKey(db.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys
		WHERE id = $1 AND ($2 = '' OR tenant = $2)`, id, tenant))
	if errors.Is(err, sql.ErrNoRows) {
		return k, bulkhead.Errorf(bulkhead.CodeNotFound, "key %q was not found", id)
	}
	if err != nil {
		return k, fmt.Errorf("read key: %w", err)
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
	s.keys.drop()
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	return nil
}

// ListKeys returns the tenant's keys, revoked ones too, oldest first. An empty
// tenant means all.
func (s *Store) ListKeys(ctx context.Context, tenant string) ([]Key, error) {
	out, err := query(ctx, s.read, scanKey, `SELECT `+keyColumns+`
		FROM api_keys WHERE $1 = '' OR tenant = $1 ORDER BY created_at, id`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return out, nil
}

func scanKey(row scanner) (Key, error) {
	var k Key
	var scopes string
	var created int64
	var revoked, previous sql.NullInt64
	if err := row.Scan(&k.ID, &k.Tenant, &k.Name, &k.Prefix, &scopes, &created, &revoked, &previous,
		&k.RequestsPerSecond, &k.CreatesPerSecond); err != nil {
		return Key{}, err
	}
	k.CreatedAt, k.RevokedAt, k.PreviousUntil = fromNanos(created), fromNanos(revoked.Int64), fromNanos(previous.Int64)
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
		if !slices.Contains(Scopes(), scope) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "scopes[%d] is %q; it must be %q, %q or %q",
				i, scope, ScopeRun, ScopeManage, ScopeAdmin)
		}
	}
	for _, f := range []struct {
		name string
		rate float64
	}{{"requestsPerSecond", r.RequestsPerSecond}, {"createsPerSecond", r.CreatesPerSecond}} {
		if f.rate != 0 && !(f.rate >= leastRate && f.rate <= maxRate) {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "%s is %v; it must be 0, which is unlimited, or between %v and %.0f",
				f.name, f.rate, leastRate, maxRate)
		}
	}
	return nil
}

// randomHex returns n random bytes as hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: it ends the program first
	return hex.EncodeToString(b)
}

func hexHash(h [sha256.Size]byte) string { return hex.EncodeToString(h[:]) }

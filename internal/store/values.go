package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// Bounds of what scripts keep for their tenant: keys, and the bytes of a key, of a
// value and of all together.
const (
	MaxKeys  = 10_000
	MaxKey   = 512
	MaxValue = 256 << 10
	MaxTotal = 16 << 20
)

// Value returns what a tenant's scripts keep under a key, nil for nothing.
func (s *Store) Value(ctx context.Context, tenant, key string) (json.RawMessage, error) {
	if strings.ContainsRune(key, 0) {
		return nil, nil
	}
	var v string
	err := s.read.QueryRowContext(ctx, `SELECT value FROM script_values WHERE tenant = $1 AND key = $2`, tenant, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read value: %w", fault(err))
	}
	return json.RawMessage(v), nil
}

// SetValue keeps a value under a key, in the place of what was there. Codes:
// invalid (the key), too_large, quota_exceeded, not_found (the tenant).
func (s *Store) SetValue(ctx context.Context, tenant, key string, value json.RawMessage) error {
	if err := validateEntry(key, value); err != nil {
		return err
	}
	size := int64(len(key) + len(value))
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := needTenant(ctx, tx, tenant); err != nil {
			return err
		}
		was, found, err := sizeOf(ctx, tx, tenant, key)
		if err != nil {
			return err
		}
		var keys, total int64
		err = tx.QueryRowContext(ctx, `SELECT keys, bytes FROM script_use WHERE tenant = $1`, tenant).Scan(&keys, &total)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if !found {
			keys++
		}
		if total += size - was; keys > MaxKeys || total > MaxTotal {
			return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "the store is full: at most %d keys and %d bytes", MaxKeys, MaxTotal)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO script_values (tenant, key, size, value) VALUES ($1, $2, $3, $4)
			ON CONFLICT (tenant, key) DO UPDATE SET size = excluded.size, value = excluded.value`, tenant, key, size, string(value)); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO script_use (tenant, keys, bytes) VALUES ($1, $2, $3)
			ON CONFLICT (tenant) DO UPDATE SET keys = excluded.keys, bytes = excluded.bytes`, tenant, keys, total)
		return err
	})
	if err != nil {
		return fmt.Errorf("write value: %w", err)
	}
	return nil
}

// DeleteValue removes what is kept under a key and reports whether there was
// something.
func (s *Store) DeleteValue(ctx context.Context, tenant, key string) (bool, error) {
	if strings.ContainsRune(key, 0) {
		return false, nil
	}
	var found bool
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var size int64
		var err error
		if size, found, err = sizeOf(ctx, tx, tenant, key); err != nil || !found {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM script_values WHERE tenant = $1 AND key = $2`, tenant, key); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE script_use SET keys = keys - 1, bytes = bytes - $2 WHERE tenant = $1`, tenant, size)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("delete value: %w", err)
	}
	return found, nil
}

// Keys returns the keys that begin with prefix, sorted.
func (s *Store) Keys(ctx context.Context, tenant, prefix string) ([]string, error) {
	if strings.ContainsRune(prefix, 0) {
		return nil, nil
	}
	keys, err := query(ctx, s.read, func(row scanner) (string, error) {
		var k string
		err := row.Scan(&k)
		return k, err
	}, `SELECT key FROM script_values WHERE tenant = $1 AND SUBSTR(key, 1, LENGTH($2)) = $2`, tenant, prefix)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	slices.Sort(keys) // in the order of bytes, whatever that of the database's texts
	return keys, nil
}

// sizeOf returns the size of what is kept under a key.
func sizeOf(ctx context.Context, tx *sql.Tx, tenant, key string) (size int64, found bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT size FROM script_values WHERE tenant = $1 AND key = $2`, tenant, key).Scan(&size)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return size, err == nil, err
}

// validateEntry checks a key and a value.
func validateEntry(key string, value json.RawMessage) error {
	if key == "" || len(key) > MaxKey {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the key has %d bytes; it must have 1 to %d", len(key), MaxKey)
	}
	if strings.ContainsRune(key, 0) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "the key %.80q holds a zero byte", key)
	}
	if len(value) > MaxValue {
		return bulkhead.Errorf(bulkhead.CodeTooLarge, "the value of %.80q has %d bytes; the limit is %d", key, len(value), MaxValue)
	}
	return nil
}

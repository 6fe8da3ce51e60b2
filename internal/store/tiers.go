package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bulkheadhq/bulkhead"
)

const tierColumns = `name, multiplier, priority, quota`

// Tier returns a tier, from memory when it was read before. Code: not_found.
func (s *Store) Tier(ctx context.Context, name string) (bulkhead.Tier, error) {
	return s.tiers.get(ctx, name, func(ctx context.Context, name string) (bulkhead.Tier, error) {
		t, err := scanTier(s.read.QueryRowContext(ctx, `SELECT `+tierColumns+` FROM tiers WHERE name = $1`, name))
		if errors.Is(err, sql.ErrNoRows) {
			return t, bulkhead.Errorf(bulkhead.CodeNotFound, "tier %q was not found", name)
		}
		if err != nil {
			return t, fmt.Errorf("read tier: %w", fault(err))
		}
		return t, nil
	})
}

// Tiers returns all tiers, those of the lowest priority first.
func (s *Store) Tiers(ctx context.Context) ([]bulkhead.Tier, error) {
	out, err := query(ctx, s.read, scanTier, `SELECT `+tierColumns+` FROM tiers ORDER BY priority, multiplier, name`)
	if err != nil {
		return nil, fmt.Errorf("list tiers: %w", err)
	}
	return out, nil
}

// PutTier makes a tier or changes it, for all of its tenants. Code: invalid.
func (s *Store) PutTier(ctx context.Context, t bulkhead.Tier) error {
	if err := t.Validate(); err != nil {
		return fmt.Errorf("put tier: %w", err)
	}
	quota, err := json.Marshal(t.Quota)
	if err != nil {
		return fmt.Errorf("put tier: encode quota: %w", err)
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO tiers (`+tierColumns+`) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET multiplier = excluded.multiplier, priority = excluded.priority, quota = excluded.quota`,
			t.Name, t.Multiplier, int64(t.Priority), string(quota))
		return err
	})
	s.tiers.drop()
	if err != nil {
		return fmt.Errorf("put tier: %w", err)
	}
	return nil
}

// DeleteTier removes a tier that no tenant has. Codes: not_found; conflict while
// it has tenants.
func (s *Store) DeleteTier(ctx context.Context, name string) error {
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var tenants int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM tenants WHERE tier = $1`, name).Scan(&tenants); err != nil {
			return err
		}
		if tenants > 0 {
			return bulkhead.Errorf(bulkhead.CodeConflict, "tier %q has %d tenants; give them another tier first", name, tenants)
		}
		n, err := changed(tx.ExecContext(ctx, `DELETE FROM tiers WHERE name = $1`, name))
		if n == 0 && err == nil {
			return bulkhead.Errorf(bulkhead.CodeNotFound, "tier %q was not found", name)
		}
		return err
	})
	s.tiers.drop()
	if err != nil {
		return fmt.Errorf("delete tier: %w", err)
	}
	return nil
}

func scanTier(row scanner) (bulkhead.Tier, error) {
	var t bulkhead.Tier
	var priority int64
	var quota string
	if err := row.Scan(&t.Name, &t.Multiplier, &priority, &quota); err != nil {
		return t, err
	}
	t.Priority = int(priority)
	if err := json.Unmarshal([]byte(quota), &t.Quota); err != nil {
		return t, fmt.Errorf("decode quota of tier %s: %w", t.Name, err)
	}
	return t, nil
}

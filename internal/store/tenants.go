package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

const tenantColumns = `id, name, tier, quota, created_at`

// Tenant returns a tenant, from memory when it was read before. Code: not_found.
func (s *Store) Tenant(ctx context.Context, id string) (bulkhead.Tenant, error) {
	return s.tenants.get(ctx, id, func(ctx context.Context, id string) (bulkhead.Tenant, error) {
		t, err := readTenant(ctx, s.read, id)
		return t, fault(err)
	})
}

// Tenants returns all tenants in the order of their ids.
func (s *Store) Tenants(ctx context.Context) ([]bulkhead.Tenant, error) {
	out, err := query(ctx, s.read, scanTenant, `SELECT `+tenantColumns+` FROM tenants ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return out, nil
}

// CreateTenant makes a tenant; its CreatedAt is set here. Codes: invalid, also for
// a tier that there is not; conflict for an id that is taken.
func (s *Store) CreateTenant(ctx context.Context, t bulkhead.Tenant) (bulkhead.Tenant, error) {
	if err := t.Validate(); err != nil {
		return t, fmt.Errorf("create tenant: %w", err)
	}
	quota, err := json.Marshal(t.Quota)
	if err != nil {
		return t, fmt.Errorf("create tenant: encode quota: %w", err)
	}
	t.CreatedAt = time.Now().UTC()
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := needTier(ctx, tx, t.Tier); err != nil {
			return err
		}
		n, err := changed(tx.ExecContext(ctx, `INSERT INTO tenants (`+tenantColumns+`) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (id) DO NOTHING`, t.ID, t.Name, t.Tier, string(quota), nanos(t.CreatedAt)))
		if n == 0 && err == nil {
			return bulkhead.Errorf(bulkhead.CodeConflict, "tenant %q exists already", t.ID)
		}
		return err
	})
	if err != nil {
		return t, fmt.Errorf("create tenant: %w", err)
	}
	return t, nil
}

// UpdateTenant lets change alter the name, tier and overrides of a tenant and
// returns it as it is then. Two updates do not undo each other. change must not
// block and may be called again, with the tenant as it was; its error, which must
// be a *bulkhead.Error, is returned. Codes: not_found, invalid, those of change.
func (s *Store) UpdateTenant(ctx context.Context, id string, change func(*bulkhead.Tenant) error) (bulkhead.Tenant, error) {
	var t bulkhead.Tenant
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		if t, err = readTenant(ctx, tx, id); err != nil {
			return err
		}
		made := t.CreatedAt
		if err := change(&t); err != nil {
			return err
		}
		t.ID, t.CreatedAt = id, made
		if len(t.Name) > maxName {
			return bulkhead.Errorf(bulkhead.CodeInvalid, "name has %d bytes; it may have %d", len(t.Name), maxName)
		}
		if err := t.Quota.Validate(); err != nil {
			return err
		}
		if err := needTier(ctx, tx, t.Tier); err != nil {
			return err
		}
		quota, err := json.Marshal(t.Quota)
		if err != nil {
			return fmt.Errorf("encode quota: %w", err)
		}
		_, err = tx.ExecContext(ctx, `UPDATE tenants SET name = $2, tier = $3, quota = $4 WHERE id = $1`, id, t.Name, t.Tier, string(quota))
		return err
	})
	s.tenants.drop()
	if err != nil {
		return t, fmt.Errorf("update tenant: %w", err)
	}
	return t, nil
}

// DeleteTenant removes a tenant with its scripts and what they keep, and revokes
// its keys, in one step; from then on no sandbox of it is recorded. Its ended
// sandboxes and its usage stay. It is refused while the tenant has live sandboxes,
// unless force is set: whoever sets it ends them after. Codes: not_found; conflict, also for [bulkhead.DefaultTenant].
func (s *Store) DeleteTenant(ctx context.Context, id string, force bool) error {
	if id == bulkhead.DefaultTenant {
		return fmt.Errorf("delete tenant: %w", bulkhead.Errorf(bulkhead.CodeConflict, "tenant %q is the server's own and stays", id))
	}
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := readTenant(ctx, tx, id); err != nil {
			return err
		}
		var live int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM sandboxes WHERE tenant = $1 AND ended_at IS NULL`, id).Scan(&live); err != nil {
			return err
		}
		if live > 0 && !force {
			return bulkhead.Errorf(bulkhead.CodeConflict, "tenant %q has %d live sandboxes; end them first, or force it", id, live)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = $2 WHERE tenant = $1 AND revoked_at IS NULL`,
			id, time.Now().UnixNano()); err != nil {
			return err
		}
		for _, own := range []string{
			`DELETE FROM scripts WHERE tenant = $1`, `DELETE FROM script_values WHERE tenant = $1`,
			`DELETE FROM script_use WHERE tenant = $1`, `DELETE FROM tenants WHERE id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, own, id); err != nil {
				return err
			}
		}
		return nil
	})
	s.tenants.drop()
	s.keys.drop()
	if err != nil {
		return fmt.Errorf("delete tenant: %w", err)
	}
	return nil
}

// needTier refuses the name of a tier that there is not.
func needTier(ctx context.Context, tx *sql.Tx, name string) error {
	var n int64
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM tiers WHERE name = $1`, name).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "tier is %q; there is no such tier", name)
	}
	return nil
}

// needTenant refuses a tenant that there is not.
func needTenant(ctx context.Context, tx *sql.Tx, id string) error {
	var n int64
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM tenants WHERE id = $1`, id).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return noTenant(id)
	}
	return nil
}

func noTenant(id string) error {
	return bulkhead.Errorf(bulkhead.CodeNotFound, "tenant %q was not found", id)
}

func readTenant(ctx context.Context, db queryer, id string) (bulkhead.Tenant, error) {
	t, err := scanTenant(db.QueryRowContext(ctx, `SELECT `+tenantColumns+` FROM tenants WHERE id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return t, noTenant(id)
	}
	if err != nil {
		return t, fmt.Errorf("read tenant: %w", err)
	}
	return t, nil
}

func scanTenant(row scanner) (bulkhead.Tenant, error) {
	var t bulkhead.Tenant
	var quota string
	var created int64
	if err := row.Scan(&t.ID, &t.Name, &t.Tier, &quota, &created); err != nil {
		return t, err
	}
	t.CreatedAt = fromNanos(created)
	if err := json.Unmarshal([]byte(quota), &t.Quota); err != nil {
		return t, fmt.Errorf("decode quota of tenant %s: %w", t.ID, err)
	}
	return t, nil
}

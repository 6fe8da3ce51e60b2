package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bulkheadhq/bulkhead"
)

// Bounds of a tenant's stored scripts.
const (
	// MaxScripts is how many scripts a tenant may have, MaxVersions how many
	// versions of one are kept; older ones go.
	MaxScripts  = 1000
	MaxVersions = 100
	// MaxScriptBytes bounds the sources of all versions together.
	MaxScriptBytes = 64 << 20
)

const scriptColumns = `name, version, language, fingerprint, size_bytes, created_at`

// PutScript stores a new version and returns it. A text that is the same as the
// newest version's is not stored again. Codes: invalid (a zero byte in the text),
// not_found (the tenant), quota_exceeded.
func (s *Store) PutScript(ctx context.Context, tenant string, sc bulkhead.Script) (bulkhead.Script, error) {
	if strings.ContainsRune(sc.Source, 0) {
		return bulkhead.Script{}, bulkhead.Errorf(bulkhead.CodeInvalid, "the source holds a zero byte")
	}
	var stored bulkhead.Script
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		last, err := scanScript(tx.QueryRowContext(ctx, `SELECT `+scriptColumns+`, source FROM scripts
			WHERE tenant = $1 AND name = $2 ORDER BY version DESC LIMIT 1`, tenant, sc.Name))
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil && last.Fingerprint == sc.Fingerprint && last.Language == sc.Language {
			stored = last
			return nil
		}
		stored = sc
		stored.Version = last.Version + 1
		if err := roomForScript(ctx, tx, tenant, stored); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO scripts (tenant, `+scriptColumns+`, source) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			tenant, sc.Name, stored.Version, sc.Language, sc.Fingerprint, sc.SizeBytes, nanos(sc.CreatedAt), sc.Source); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM scripts WHERE tenant = $1 AND name = $2 AND version <= $3`,
			tenant, sc.Name, stored.Version-MaxVersions)
		return err
	})
	if err != nil {
		return bulkhead.Script{}, fmt.Errorf("store script: %w", err)
	}
	return stored, nil
}

// roomForScript refuses a version for which its tenant has no room, or is not there.
func roomForScript(ctx context.Context, tx *sql.Tx, tenant string, sc bulkhead.Script) error {
	if err := needTenant(ctx, tx, tenant); err != nil {
		return err
	}
	var names, size int64
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(DISTINCT name), COALESCE(SUM(size_bytes), 0) FROM scripts WHERE tenant = $1`,
		tenant).Scan(&names, &size); err != nil {
		return err
	}
	switch {
	case sc.Version == 1 && names >= MaxScripts:
		return bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "there are %d scripts already; that is the limit", names)
	case size+sc.SizeBytes > MaxScriptBytes:
		return bulkhead.Errorf(bulkhead.CodeQuotaExceeded,
			"the scripts hold %d bytes with all their versions, and this one has %d; the limit is %d", size, sc.SizeBytes, int64(MaxScriptBytes))
	}
	return nil
}

// Script returns a version of a script, 0 for the newest. Code: not_found.
func (s *Store) Script(ctx context.Context, tenant, name string, version int) (bulkhead.Script, error) {
	sc, err := scanScript(s.read.QueryRowContext(ctx, `SELECT `+scriptColumns+`, source FROM scripts
		WHERE tenant = $1 AND name = $2 AND (CAST($3 AS BIGINT) = 0 OR version = $3) ORDER BY version DESC LIMIT 1`, tenant, name, version))
	if errors.Is(err, sql.ErrNoRows) {
		return sc, noScript(name, version)
	}
	if err != nil {
		return sc, fmt.Errorf("read script: %w", fault(err))
	}
	return sc, nil
}

// Scripts returns the newest version of each script in the order of their names,
// without text.
func (s *Store) Scripts(ctx context.Context, tenant string) ([]bulkhead.Script, error) {
	list, err := query(ctx, s.read, scanScript, `SELECT `+scriptColumns+`, '' FROM scripts AS a
		WHERE tenant = $1 AND version = (SELECT MAX(version) FROM scripts AS b WHERE b.tenant = a.tenant AND b.name = a.name)`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	// In the order of bytes, whatever that of the database's texts.
	slices.SortFunc(list, func(a, b bulkhead.Script) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// DeleteScript removes every version of a script. Code: not_found.
func (s *Store) DeleteScript(ctx context.Context, tenant, name string) error {
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(tx.ExecContext(ctx, `DELETE FROM scripts WHERE tenant = $1 AND name = $2`, tenant, name))
		if n == 0 && err == nil {
			return noScript(name, 0)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete script: %w", err)
	}
	return nil
}

// noScript is what a tenant is told of a script that is not there.
func noScript(name string, version int) error {
	if version > 0 {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "there is no version %d of a script %.80q", version, name)
	}
	return bulkhead.Errorf(bulkhead.CodeNotFound, "there is no script %.80q", name)
}

// scanScript reads a row of scriptColumns and the source.
func scanScript(row scanner) (bulkhead.Script, error) {
	var sc bulkhead.Script
	var created int64
	err := row.Scan(&sc.Name, &sc.Version, &sc.Language, &sc.Fingerprint, &sc.SizeBytes, &created, &sc.Source)
	sc.CreatedAt = fromNanos(created)
	return sc, err
}

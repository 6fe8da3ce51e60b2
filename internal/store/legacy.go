package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
)

// TakeScripts moves what an earlier version kept in a SQLite file of its own, and
// removes the file. It does nothing where there is none. What belongs to no tenant
// is left out; what is here already stays.
func (s *Store) TakeScripts(ctx context.Context, path string) (err error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	old, err := sqliteConns(path, "deferred", 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, move := range []struct{ from, to string }{
			{
				`SELECT tenant, name, version, language, fingerprint, size_bytes, created_at * 1000000, source FROM script`,
				`INSERT INTO scripts (tenant, ` + scriptColumns + `, source)
					SELECT id, $2, CAST($3 AS BIGINT), $4, $5, CAST($6 AS BIGINT), CAST($7 AS BIGINT), $8
					FROM tenants WHERE id = $1 ON CONFLICT DO NOTHING`,
			},
			{
				`SELECT tenant, key, length(CAST(key AS BLOB)) + length(value), CAST(value AS TEXT) FROM script_value`,
				`INSERT INTO script_values (tenant, key, size, value) SELECT id, $2, CAST($3 AS BIGINT), $4
					FROM tenants WHERE id = $1 ON CONFLICT DO NOTHING`,
			},
		} {
			if err := copyRows(ctx, old, tx, move.from, move.to); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO script_use (tenant, keys, bytes)
			SELECT tenant, COUNT(*), SUM(size) FROM script_values GROUP BY tenant
			ON CONFLICT (tenant) DO UPDATE SET keys = excluded.keys, bytes = excluded.bytes`)
		return err
	})
	if err != nil {
		return fmt.Errorf("move %s: %w", path, err)
	}
	s.log.InfoContext(ctx, "moved scripts into the store", "from", path)
	for _, file := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove what was moved: %w", err)
		}
	}
	return nil
}

// copyRows gives each row of one query, of texts and numbers, to a statement.
func copyRows(ctx context.Context, from *sql.DB, to *sql.Tx, query, statement string) (err error) {
	rows, err := from.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	row, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range row {
		into[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if _, err := to.ExecContext(ctx, statement, row...); err != nil {
			return err
		}
	}
	return rows.Err()
}

package script

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver named "sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLite keeps everything in one file. A write that returned nil is on the disk.
type SQLite struct{ db *sql.DB }

var (
	_ Store    = (*SQLite)(nil)
	_ KeyValue = (*SQLite)(nil)
)

// OpenSQLite opens the file at path, makes it if there is none, readable by its
// owner only, and brings its schema up to date. The caller must Close it.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open script store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open script store: %w", err)
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open script store: %w", err)
	}
	db.SetMaxOpenConns(1) // one writer; its answers take microseconds
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("open script store: %w", err), db.Close())
	}
	return &SQLite{db}, nil
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// Close closes the file.
func (s *SQLite) Close() error { return s.db.Close() }

// within runs f in a transaction.
func (s *SQLite) within(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

const scriptColumns = `name, version, language, source, fingerprint, size_bytes, created_at`

// scanScript reads a row of scriptColumns.
func scanScript(row interface{ Scan(...any) error }) (Script, error) {
	var s Script
	var at int64
	err := row.Scan(&s.Name, &s.Version, &s.Language, &s.Source, &s.Fingerprint, &s.SizeBytes, &at)
	s.CreatedAt = time.UnixMilli(at).UTC()
	return s, err
}

// PutScript implements [Store].
func (s *SQLite) PutScript(ctx context.Context, tenant string, sc Script) (Script, error) {
	err := s.within(ctx, func(tx *sql.Tx) error {
		last, err := scanScript(tx.QueryRowContext(ctx, `SELECT `+scriptColumns+
			` FROM script WHERE tenant = ? AND name = ? ORDER BY version DESC LIMIT 1`, tenant, sc.Name))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			var n int
			if err := tx.QueryRowContext(ctx,
				`SELECT count(DISTINCT name) FROM script WHERE tenant = ?`, tenant).Scan(&n); err != nil {
				return fmt.Errorf("count scripts: %w", err)
			}
			if n >= MaxScripts {
				return errTooManyScripts()
			}
		case err != nil:
			return fmt.Errorf("read script: %w", err)
		case last.Fingerprint == sc.Fingerprint && last.Language == sc.Language:
			sc = last
			return nil
		}
		sc.Version = last.Version + 1
		sc.CreatedAt = sc.CreatedAt.Truncate(time.Millisecond).UTC()
		if _, err := tx.ExecContext(ctx, `INSERT INTO script (tenant, `+scriptColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			tenant, sc.Name, sc.Version, sc.Language, sc.Source, sc.Fingerprint, sc.SizeBytes, sc.CreatedAt.UnixMilli()); err != nil {
			return fmt.Errorf("write script: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM script WHERE tenant = ? AND name = ? AND version <= ?`,
			tenant, sc.Name, sc.Version-MaxVersions); err != nil {
			return fmt.Errorf("drop old versions: %w", err)
		}
		return nil
	})
	if err != nil {
		return Script{}, err
	}
	return sc, nil
}

// Script implements [Store].
func (s *SQLite) Script(ctx context.Context, tenant, name string, version int) (Script, error) {
	sc, err := scanScript(s.db.QueryRowContext(ctx, `SELECT `+scriptColumns+
		` FROM script WHERE tenant = ? AND name = ? AND (? = 0 OR version = ?) ORDER BY version DESC LIMIT 1`,
		tenant, name, version, version))
	if errors.Is(err, sql.ErrNoRows) {
		return Script{}, errNoScript(name, version)
	}
	if err != nil {
		return Script{}, fmt.Errorf("read script: %w", err)
	}
	return sc, nil
}

// Scripts implements [Store].
func (s *SQLite) Scripts(ctx context.Context, tenant string) ([]Script, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT name, version, language, '', fingerprint, size_bytes, created_at
		FROM script AS a WHERE tenant = ? AND version = (
			SELECT max(version) FROM script AS b WHERE b.tenant = a.tenant AND b.name = a.name) ORDER BY name`, tenant)
	if err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	defer func() { _ = rows.Close() }()
	list := []Script{}
	for rows.Next() {
		sc, err := scanScript(rows)
		if err != nil {
			return nil, fmt.Errorf("list scripts: %w", err)
		}
		list = append(list, sc)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	return list, nil
}

// DeleteScript implements [Store].
func (s *SQLite) DeleteScript(ctx context.Context, tenant, name string) error {
	r, err := s.db.ExecContext(ctx, `DELETE FROM script WHERE tenant = ? AND name = ?`, tenant, name)
	if err != nil {
		return fmt.Errorf("delete script: %w", err)
	}
	if n, err := r.RowsAffected(); err == nil && n == 0 {
		return errNoScript(name, 0)
	}
	return nil
}

// Get implements [KeyValue].
func (s *SQLite) Get(ctx context.Context, tenant, key string) (json.RawMessage, error) {
	var v []byte
	err := s.db.QueryRowContext(ctx, `SELECT value FROM script_value WHERE tenant = ? AND key = ?`, tenant, key).Scan(&v)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("read value: %w", err)
	}
	return v, nil
}

// Set implements [KeyValue].
func (s *SQLite) Set(ctx context.Context, tenant, key string, value json.RawMessage) error {
	if err := validateEntry(key, value); err != nil {
		return err
	}
	return s.within(ctx, func(tx *sql.Tx) error {
		var keys, total int64
		if err := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(length(CAST(key AS BLOB)) + length(value)), 0)
			FROM script_value WHERE tenant = ? AND key <> ?`, tenant, key).Scan(&keys, &total); err != nil {
			return fmt.Errorf("count values: %w", err)
		}
		if keys+1 > MaxKeys || total+int64(len(key)+len(value)) > MaxTotal {
			return errStoreFull()
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO script_value (tenant, key, value) VALUES (?, ?, ?)
			ON CONFLICT (tenant, key) DO UPDATE SET value = excluded.value`, tenant, key, []byte(value)); err != nil {
			return fmt.Errorf("write value: %w", err)
		}
		return nil
	})
}

// Delete implements [KeyValue].
func (s *SQLite) Delete(ctx context.Context, tenant, key string) (bool, error) {
	r, err := s.db.ExecContext(ctx, `DELETE FROM script_value WHERE tenant = ? AND key = ?`, tenant, key)
	if err != nil {
		return false, fmt.Errorf("delete value: %w", err)
	}
	n, err := r.RowsAffected()
	return n > 0, err
}

// List implements [KeyValue].
func (s *SQLite) List(ctx context.Context, tenant, prefix string) ([]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT key FROM script_value
		WHERE tenant = ? AND substr(key, 1, length(?)) = ? ORDER BY key LIMIT ?`, tenant, prefix, prefix, MaxKeys)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	keys := []string{}
	for rows.Next() {
		var k string
		if err := rows.Scan(&k); err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		keys = append(keys, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

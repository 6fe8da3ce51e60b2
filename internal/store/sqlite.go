package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver named "sqlite"

	"github.com/bulkheadhq/bulkhead"
)

// openSQLite opens the file that rawURL names. Whoever owns the folder keeps
// other servers away from it.
func (s *Store) openSQLite(ctx context.Context, rawURL string) error {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return err
	}
	if err := makePrivate(path); err != nil {
		return err
	}
	if s.write, err = sqliteConns(path, "immediate", 1); err != nil {
		return err
	}
	if err := migrate(ctx, goose.DialectSQLite3, s.write, s.log); err != nil {
		return errors.Join(err, s.write.Close())
	}
	if s.read.DB, err = sqliteConns(path, "deferred", readers); err != nil {
		return errors.Join(err, s.write.Close())
	}
	return nil
}

// sqlitePath returns the file that rawURL names.
func sqlitePath(rawURL string) (string, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	switch {
	case !ok:
		rest = rawURL
	case scheme != "sqlite":
		return "", bulkhead.Errorf(bulkhead.CodeInvalid,
			"database has the scheme %q; it must be %q or %q", scheme, "sqlite", "postgres")
	default:
		rest = strings.TrimPrefix(rest, "//")
	}
	if rest == "" {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "database %q names no file", rawURL)
	}
	return rest, nil
}

// makePrivate makes the file, and the directory it is in, for the owner only.
// SQLite gives the log files beside it the same mode.
func makePrivate(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make store directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make store file: %w", err)
	}
	return f.Close()
}

// sqliteConns opens a pool of at most conns connections whose transactions start
// with the given lock.
func sqliteConns(path, lock string, conns int) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{
		"_txlock": {lock},
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

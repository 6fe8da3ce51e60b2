// Package store keeps what must outlive the server: sandboxes, with how they
// ended, and API keys.
//
// A write that returned nil is on the disk: SQLite runs with a write-ahead log
// and synchronous=FULL, and writes that arrive together share one fsync. The
// queries and the schema keep to the SQL that PostgreSQL has too, and
// package storetest says what every implementation must do. A Store may be used
// by any number of goroutines. Templates and snapshots are files, not rows.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver named "sqlite"

	"github.com/bulkheadhq/bulkhead"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// readers is the number of connections for queries; they never wait for the writer.
	readers = 4
	// pruneEvery is how often Run looks for rows past their retention.
	pruneEvery = 10 * time.Minute
	// pruneBatch bounds how many rows one transaction deletes, so that a write
	// waits for at most one batch.
	pruneBatch = 1000
)

// Retention is how long an ended sandbox is kept unless the operator says otherwise.
const Retention = 7 * 24 * time.Hour

// Store is an open database.
type Store struct {
	read  *sql.DB
	write *sql.DB
	group *group
	log   *slog.Logger
}

// Open opens the database at rawURL, makes it if there is none, and brings its
// schema up to date. The URL is "sqlite:///absolute/path", "sqlite:relative/path"
// or a plain path. The file is readable by its owner only, since it holds the
// tokens of running sandboxes. The caller must Close what it got.
func Open(ctx context.Context, rawURL string, log *slog.Logger) (*Store, error) {
	path, err := sqlitePath(rawURL)
	if err != nil {
		return nil, err
	}
	if err := makePrivate(path); err != nil {
		return nil, err
	}
	s := &Store{log: log}
	if s.write, err = openSQLite(path, "immediate", 1); err != nil {
		return nil, err
	}
	if err := migrate(ctx, s.write, log); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	if s.read, err = openSQLite(path, "deferred", readers); err != nil {
		return nil, errors.Join(err, s.write.Close())
	}
	s.group = newGroup(s.write)
	return s, nil
}

// Close waits for the writes under way and closes the database. A write that
// comes later fails.
func (s *Store) Close() error {
	s.group.close()
	return errors.Join(s.read.Close(), s.write.Close())
}

// Run deletes what ended longer than retention ago (0 means [Retention]), at
// once and then every ten minutes, until ctx ends. It returns ctx's error.
func (s *Store) Run(ctx context.Context, retention time.Duration) error {
	if retention <= 0 {
		retention = Retention
	}
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		n, err := s.Prune(ctx, time.Now().Add(-retention))
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.ErrorContext(ctx, "prune ended sandboxes", "error", err)
		case n > 0:
			s.log.InfoContext(ctx, "pruned ended sandboxes", "rows", n, "retention", retention)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Prune deletes the sandboxes that ended before the given time and says how many
// those were. Writes of others go on in between.
func (s *Store) Prune(ctx context.Context, before time.Time) (int64, error) {
	var total int64
	for {
		var n int64
		err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, `DELETE FROM sandboxes WHERE id IN (
				SELECT id FROM sandboxes WHERE ended_at < $1 ORDER BY ended_at LIMIT $2)`,
				before.UnixNano(), pruneBatch)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return total, fmt.Errorf("prune sandboxes: %w", err)
		}
		total += n
		if n < pruneBatch {
			return total, nil
		}
	}
}

// sqlitePath returns the file that rawURL names.
func sqlitePath(rawURL string) (string, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	switch {
	case !ok:
		rest = rawURL
	case scheme != "sqlite":
		return "", bulkhead.Errorf(bulkhead.CodeUnsupported,
			"store URL has the scheme %q; this build stores in %q only", scheme, "sqlite")
	default:
		rest = strings.TrimPrefix(rest, "//")
	}
	if rest == "" {
		return "", bulkhead.Errorf(bulkhead.CodeInvalid, "store URL %q names no file", rawURL)
	}
	return rest, nil
}

// makePrivate makes the file, and the directory it is in, for the owner only.
// SQLite gives the log files beside it the same mode.
func makePrivate(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make store directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return fmt.Errorf("make store file: %w", err)
	}
	return f.Close()
}

// openSQLite opens a pool of at most conns connections whose transactions start
// with the given lock.
func openSQLite(path, lock string, conns int) (*sql.DB, error) {
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

// migrate brings the schema up to date.
func migrate(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	for _, m := range done {
		log.InfoContext(ctx, "migrated the store", "migration", m.Source.Path, "duration", m.Duration)
	}
	return nil
}

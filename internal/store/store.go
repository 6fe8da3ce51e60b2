// Package store keeps what must outlive the server: tenants and their tiers, API
// keys, sandboxes with how they ended, what was used, who did what, and scripts
// with what they keep.
//
// It is SQLite or PostgreSQL: one schema, one set of queries in the SQL that both
// have, one suite of tests (package storetest) for both. A write that returned nil
// is on the disk: SQLite runs with a write-ahead log and synchronous=FULL,
// PostgreSQL with synchronous_commit, and writes that arrive together share one
// transaction. A database that cannot be reached is CodeUnavailable. One server
// uses a database at a time, which is seen to. A Store may be used by any number
// of goroutines. Templates and snapshots are files, not rows.
package store

import (
	"context"
	"crypto/cipher"
	"crypto/sha256"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/bulkheadhq/bulkhead"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// cacheLife is how long what was read may be used where an operator may change
	// rows behind the server's back.
	cacheLife = 5 * time.Second
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
	read  reader
	write *sql.DB // one connection; on PostgreSQL it holds the server's lock
	group *group
	log   *slog.Logger
	aead  cipher.AEAD // seals secrets; nil leaves them as they are

	tenants *cache[string, bulkhead.Tenant]
	tiers   *cache[string, bulkhead.Tier]
	keys    *cache[[sha256.Size]byte, keyBySecret]
	today   today
}

// Option changes how a store works.
type Option func(*Store)

// Open opens the database at rawURL, makes its tables if there are none, and
// brings its schema up to date. The URL is "sqlite:///absolute/path",
// "sqlite:relative/path", a plain path, or "postgres://…" as libpq has it. A file
// is made if there is none, readable by its owner only; a PostgreSQL database must
// be there. The caller must Close what it got. Codes: invalid (the URL), conflict
// (another server uses the database), unavailable.
func Open(ctx context.Context, rawURL string, log *slog.Logger, options ...Option) (*Store, error) {
	s := &Store{log: log}
	for _, o := range options {
		o(s)
	}
	scheme, _, _ := strings.Cut(rawURL, ":")
	open, life := s.openSQLite, time.Duration(0)
	if scheme == "postgres" || scheme == "postgresql" {
		open, life = s.openPostgres, cacheLife
	}
	s.tenants, s.tiers = newCache[string, bulkhead.Tenant](life), newCache[string, bulkhead.Tier](life)
	s.keys = newCache[[sha256.Size]byte, keyBySecret](life)
	if err := open(ctx, rawURL); err != nil {
		return nil, err
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

// Run deletes what ended longer than retention ago (0 means [Retention]), and acts
// older than [AuditRetention], at once and then every ten minutes, until ctx ends.
// It returns ctx's error.
func (s *Store) Run(ctx context.Context, retention time.Duration) error {
	if retention <= 0 {
		retention = Retention
	}
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		n, err := s.Prune(ctx, now.Add(-retention))
		err = errors.Join(err, s.FoldUsage(ctx, now.Add(-retention)), s.PruneActs(ctx, now.Add(-AuditRetention)))
		switch {
		case err != nil && ctx.Err() == nil:
			s.log.ErrorContext(ctx, "prune the store", "error", err)
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

// migrate brings the schema up to date.
func migrate(ctx context.Context, dialect goose.Dialect, db *sql.DB, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	p, err := goose.NewProvider(dialect, db, files, goose.WithAllowOutofOrder(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return fmt.Errorf("migrate store: %w", fault(err))
	}
	for _, m := range done {
		log.InfoContext(ctx, "migrated the store", "migration", m.Source.Path, "duration", m.Duration)
	}
	return nil
}

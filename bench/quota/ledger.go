package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/store/pgtest"
)

// crowdOfWriters is how many sandboxes are recorded at once in the second figure of
// each database.
const crowdOfWriters = 16

// ledger measures how long it takes until a new sandbox's row is durable, on SQLite
// and on a PostgreSQL of our own that waits for the disk, and the bare INSERT of a
// row as long on each; and how long it takes to refuse a key that is wrong.
func ledger(ctx context.Context, r *results.Report, n int) error {
	var once sync.Once
	err := errors.New("no PostgreSQL is installed")
	testing.Benchmark(func(b *testing.B) { // what starts PostgreSQL ends it with a test
		once.Do(func() {
			sqlite := filepath.Join(b.TempDir(), "bare.db")
			var bare float64
			if bare, err = bareSQLite(ctx, r, sqlite, n); err == nil {
				err = ours(ctx, r, "SQLite", filepath.Join(b.TempDir(), "bulkhead.db"), n, bare)
			}
			if err == nil {
				err = guesses(ctx, r, b.TempDir(), 10*n)
			}
			if err != nil {
				return
			}
			server := pgtest.Start(b, "fsync=on")
			if bare, err = barePostgres(ctx, r, server.Database(b), n); err == nil {
				err = ours(ctx, r, "PostgreSQL", server.Database(b), n, bare)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("measure the ledger: %w", err)
	}
	return nil
}

// ours records n sandboxes, one after the other and then some at once.
func ours(ctx context.Context, r *results.Report, name, url string, n int, bare float64) (err error) {
	s, err := store.Open(ctx, url, slog.New(slog.DiscardHandler), store.WithSeal(store.SealKey{1}))
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, writers := range []int{1, crowdOfWriters} {
		x, first := inserts(name+": record a sandbox, "+count(writers), n, writers, func(id string) error {
			return s.PutSandbox(ctx, recorded(id))
		})
		x.Peer, x.Ratio = fmt.Sprintf("bare INSERT, p50 %.2f ms", bare), bare/x.P50
		r.Add(x, first)
	}
	return nil
}

func count(writers int) string {
	if writers == 1 {
		return "alone"
	}
	return fmt.Sprintf("%d at once", writers)
}

// recorded is a sandbox as a create makes it.
func recorded(id string) bulkhead.Sandbox {
	now := time.Now().UTC()
	l := bulkhead.DefaultLimits()
	return bulkhead.Sandbox{
		ID: id, Tenant: bulkhead.DefaultTenant, TemplateID: "code-interpreter-v1", Template: "code-interpreter-v1", TemplateDigest: "0123456789abcdef",
		State: bulkhead.StateRunning, StartedAt: now, EndAt: now.Add(time.Hour), Limits: l,
		Allocation: &bulkhead.Allocation{Sandbox: id, Tenant: bulkhead.DefaultTenant, Limits: l, TTLSeconds: 3600, Priority: 1, At: now},
		Address:    "10.213.0.2", Box: "bulkhead-0-" + id, EnvdToken: "a token of some length", Metadata: map[string]string{"user": "someone"},
	}
}

// inserts measures n calls of insert, by so many at once.
func inserts(name string, n, writers int, insert func(id string) error) (results.Row, error) {
	var mu sync.Mutex
	var took []time.Duration
	var failures int
	var first error
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range max(1, n/writers) {
				began := time.Now()
				err := insert(fmt.Sprintf("i%d-%d-%d", writers, w, i))
				d := time.Since(began)
				mu.Lock()
				took = append(took, d)
				if err != nil {
					failures++
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return row(name, took, time.Millisecond, "ms", failures), first
}

// bareTable is the least that a row of that length needs.
const bareTable = "CREATE TABLE bare (id TEXT PRIMARY KEY, doc TEXT NOT NULL)"

// bareSQLite measures INSERTs as durable as ours through database/sql, and returns their
// median.
func bareSQLite(ctx context.Context, r *results.Report, path string, n int) (float64, error) {
	db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return 0, err
	}
	defer db.Close() //nolint:errcheck // nothing is kept
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, bareTable); err != nil {
		return 0, err
	}
	return bareInsert(r, "SQLite", n, func(id, doc string) error {
		_, err := db.ExecContext(ctx, "INSERT INTO bare (id, doc) VALUES (?, ?)", id, doc)
		return err
	})
}

// barePostgres is bareSQLite through pgx.
func barePostgres(ctx context.Context, r *results.Report, url string, n int) (float64, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is kept
	if _, err := conn.Exec(ctx, bareTable); err != nil {
		return 0, err
	}
	return bareInsert(r, "PostgreSQL", n, func(id, doc string) error {
		_, err := conn.Exec(ctx, "INSERT INTO bare (id, doc) VALUES ($1, $2)", id, doc)
		return err
	})
}

func bareInsert(r *results.Report, name string, n int, insert func(id, doc string) error) (float64, error) {
	doc, err := json.Marshal(recorded("i0"))
	if err != nil {
		return 0, err
	}
	x, first := inserts("   "+name+": bare INSERT", n, 1, func(id string) error { return insert(id, string(doc)) })
	r.Add(x, first)
	return x.P50, nil
}

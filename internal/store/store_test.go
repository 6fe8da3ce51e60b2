package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/store/pgtest"
	"github.com/bulkheadhq/bulkhead/internal/store/storetest"
)

var _ storetest.Store = (*store.Store)(nil)

func open(tb testing.TB, url string) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), url, slog.New(slog.DiscardHandler), store.WithSeal(store.SealKey{1}))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// openOne opens a store that has the tenant acme.
func openOne(tb testing.TB, url string) *store.Store {
	tb.Helper()
	s := open(tb, url)
	if _, err := s.CreateTenant(tb.Context(), bulkhead.Tenant{ID: "acme", Tier: "basic"}); err != nil && bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		tb.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		storetest.Run(t, func(t *testing.T, name string) storetest.Store {
			t.Helper()
			return open(t, filepath.Join(dir, name+".db"))
		})
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		urls := map[string]string{}
		storetest.Run(t, func(t *testing.T, name string) storetest.Store {
			t.Helper()
			if urls[name] == "" {
				urls[name] = server.Database(t)
			}
			return open(t, urls[name])
		})
	})
}

func TestOpenRefuses(t *testing.T) {
	for url, want := range map[string]bulkhead.Code{
		"mysql://localhost/x":             bulkhead.CodeInvalid,
		"postgres://%zz":                  bulkhead.CodeInvalid,
		"postgres:///x?host=/nonexistent": bulkhead.CodeUnavailable,
		"sqlite:":                         bulkhead.CodeInvalid,
		"":                                bulkhead.CodeInvalid,
	} {
		if _, err := store.Open(t.Context(), url, slog.New(slog.DiscardHandler)); bulkhead.CodeOf(err) != want {
			t.Errorf("open %q: got %v, want %s", url, err, want)
		}
	}
	broken := filepath.Join(t.TempDir(), "broken.db")
	if err := os.WriteFile(broken, []byte("this is no database, whatever its name says"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), broken, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened a file that is no database")
	}
}

func TestFileIsPrivateAndNamedAsGiven(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new dir")
	path := filepath.Join(dir, "a b?c#d%41.db")
	s := openOne(t, path)
	defer func() { _ = s.Close() }()
	if err := s.PutSandbox(t.Context(), storetest.Sandbox("i1", "acme")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("directory: %v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode().Perm())
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("the named file: %v, %v", info, err)
	}
}

func TestEveryConnectionIsDurable(t *testing.T) {
	s := openOne(t, filepath.Join(t.TempDir(), "bulkhead.db"))
	defer func() { _ = s.Close() }()
	for name, db := range store.Pools(s) {
		var mode string
		var sync int
		if err := db.QueryRowContext(t.Context(), "PRAGMA journal_mode").Scan(&mode); err != nil || mode != "wal" {
			t.Errorf("%s: journal mode %q, %v; want wal", name, mode, err)
		}
		if err := db.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&sync); err != nil || sync != 2 {
			t.Errorf("%s: synchronous is %d, %v; want 2 (full)", name, sync, err)
		}
	}
}

// A statement that breaks in the middle of a group undoes that group, and only that.
func TestBrokenWriteLeavesTheStoreUsable(t *testing.T) {
	s := openOne(t, filepath.Join(t.TempDir(), "bulkhead.db"))
	defer func() { _ = s.Close() }()
	secret, _, err := s.CreateKey(t.Context(), store.KeyRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	err = store.Do(t.Context(), s, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM api_keys`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `SELECT nonsense`)
		return err
	})
	if err == nil {
		t.Error("a broken statement gave no error")
	}
	if err := s.PutSandbox(t.Context(), storetest.Sandbox("i1", "acme")); err != nil {
		t.Error(err)
	}
	if _, err := s.LookupKey(t.Context(), store.HashKey(secret)); err != nil {
		t.Errorf("what the broken group deleted is gone: %v", err)
	}
}

func TestRunPrunesUntilItsContextEnds(t *testing.T) {
	s := openOne(t, filepath.Join(t.TempDir(), "bulkhead.db"))
	defer func() { _ = s.Close() }()
	for id, at := range map[string]time.Time{"iold": time.Now().Add(-2 * time.Hour), "inew": time.Now()} {
		if err := s.PutSandbox(t.Context(), storetest.Sandbox(id, "acme")); err != nil {
			t.Fatal(err)
		}
		if err := s.EndSandbox(t.Context(), id, bulkhead.End{Cause: bulkhead.CauseExpired, At: at}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- s.Run(ctx, time.Hour) }()
	for {
		_, err := s.Sandbox(ctx, "", "iold")
		if bulkhead.CodeOf(err) == bulkhead.CodeNotFound {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Sandbox(t.Context(), "", "inew"); err != nil {
		t.Errorf("a fresh end was pruned: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want %v", err, context.Canceled)
	}
}

// BenchmarkPutSandbox measures one durable insert, alone and with company.
func BenchmarkPutSandbox(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openOne(b, filepath.Join(b.TempDir(), "bulkhead.db"))
			defer func() { _ = s.Close() }()
			var n atomic.Int64
			put := func() {
				if err := s.PutSandbox(b.Context(), storetest.Sandbox(fmt.Sprintf("i%d", n.Add(1)), "acme")); err != nil {
					b.Error(err)
				}
			}
			if writers == 1 {
				for b.Loop() {
					put()
				}
				return
			}
			b.SetParallelism(writers / 2) // of two cores
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					put()
				}
			})
		})
	}
}

func BenchmarkLookupKey(b *testing.B) {
	s := openOne(b, filepath.Join(b.TempDir(), "bulkhead.db"))
	defer func() { _ = s.Close() }()
	secret, _, err := s.CreateKey(b.Context(), store.KeyRequest{Tenant: "acme"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.LookupKey(b.Context(), store.HashKey(secret)); err != nil {
			b.Fatal(err)
		}
	}
}

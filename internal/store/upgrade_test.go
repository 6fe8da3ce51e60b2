package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/store/pgtest"
	"github.com/bulkheadhq/bulkhead/internal/store/storetest"
)

// A database of the first version keeps its keys, under the scopes' new names, and
// its tenants become rows that nothing limits.
func TestUpgrade(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "old.db")
		testUpgrade(t, goose.DialectSQLite3, "sqlite", "file:"+path, path)
	})
	t.Run("postgres", func(t *testing.T) {
		url := pgtest.Start(t).Database(t)
		testUpgrade(t, goose.DialectPostgres, "pgx", url, url)
	})
}

func testUpgrade(t *testing.T, dialect goose.Dialect, driver, dsn, url string) {
	t.Helper()
	old, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(store.Migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(dialect, old, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	hash := func(secret string) string { return store.HexHash(store.HashKey(secret)) }
	for secret, row := range map[string][]any{
		"first":  {"key_1", "default", `["sandboxes","admin"]`},
		"tenant": {"key_2", "Acme & Co", `["sandboxes"]`},
	} {
		if _, err := old.ExecContext(t.Context(), `INSERT INTO api_keys (id, hash, prefix, tenant, name, scopes, created_at)
			VALUES ($1, $2, '', $3, '', $4, 7)`, row[0], hash(secret), row[1], row[2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, url)
	defer func() { _ = s.Close() }()
	for secret, want := range map[string][]string{"first": store.Scopes(), "tenant": {store.ScopeRun}} {
		k, err := s.LookupKey(t.Context(), store.HashKey(secret))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, k.Scopes); diff != "" {
			t.Errorf("scopes of %s (-want +got):\n%s", secret, diff)
		}
		tenant, err := s.Tenant(t.Context(), k.Tenant)
		if err != nil || tenant.Tier != bulkhead.TierUnlimited {
			t.Errorf("tenant %s: %+v, %v", k.Tenant, tenant, err)
		}
	}
}

// What an earlier version kept in a file of its own is moved, but what belongs to
// nobody any more.
func TestTakeScripts(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { testTakeScripts(t, filepath.Join(t.TempDir(), "bulkhead.db")) })
	t.Run("postgres", func(t *testing.T) { testTakeScripts(t, pgtest.Start(t).Database(t)) })
}

func testTakeScripts(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "scripts.db")
	old, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE TABLE script (tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, language TEXT NOT NULL,
			source TEXT NOT NULL, fingerprint TEXT NOT NULL, size_bytes BIGINT NOT NULL, created_at BIGINT NOT NULL)`,
		`CREATE TABLE script_value (tenant TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL)`,
		`INSERT INTO script VALUES ('acme', 'x', 1, 'javascript', '1', 'f1', 1, 1700000000123), ('acme', 'x', 2, 'typescript', 'ü', 'f2', 2, 1700000000124),
			('gone', 'x', 1, 'javascript', '1', 'f1', 1, 1700000000123)`,
		`INSERT INTO script_value VALUES ('acme', 'k', CAST('"ü"' AS BLOB)), ('gone', 'k', CAST('1' AS BLOB))`,
	} {
		if _, err := old.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s := openOne(t, url)
	defer func() { _ = s.Close() }()
	for range 2 { // the second time there is nothing
		if err := s.TakeScripts(ctx, path); err != nil {
			t.Fatal(err)
		}
	}
	want := bulkhead.Script{
		Name: "x", Version: 2, Language: "typescript", Source: "ü", Fingerprint: "f2", SizeBytes: 2, CreatedAt: time.UnixMilli(1700000000124).UTC(),
	}
	got, err := s.Script(ctx, "acme", "x", 0)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("script (-want +got): %v\n%s", err, diff)
	}
	if v, err := s.Value(ctx, "acme", "k"); string(v) != `"ü"` || err != nil {
		t.Errorf("value: %s, %v", v, err)
	}
	if ok, err := s.DeleteValue(ctx, "acme", "k"); !ok || err != nil {
		t.Errorf("delete value: %v, %v", ok, err)
	}
	if list, err := s.Scripts(ctx, "gone"); len(list) > 0 || err != nil {
		t.Errorf("scripts of nobody: %+v, %v", list, err)
	}
}

// A restart of the database that nobody asked anything meanwhile is not noticed,
// although every connection is a dead one.
func TestPostgresRestart(t *testing.T) {
	server := pgtest.Start(t)
	s := openOne(t, server.Database(t))
	defer func() { _ = s.Close() }()
	all := func(round string) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range 64 { // on every connection
			wg.Go(func() {
				if _, err := s.Sandboxes(t.Context(), bulkhead.Filter{}); err != nil {
					t.Errorf("%s: list: %v", round, err)
				}
				if err := s.PutSandbox(t.Context(), storetest.Sandbox(fmt.Sprintf("i%s%d", round, i), "acme")); err != nil {
					t.Errorf("%s: put: %v", round, err)
				}
				if _, err := s.LookupKey(t.Context(), [32]byte{byte(i)}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
					t.Errorf("%s: look up: %v", round, err)
				}
			})
		}
		wg.Wait()
	}
	all("before")
	server.Down(t, "immediate")
	server.Up(t)
	all("after")
}

// What a crash of the database must not do: lose what was acknowledged, acknowledge
// what is lost, or need a restart of the server.
func TestPostgresCrash(t *testing.T) {
	server := pgtest.Start(t)
	s := openOne(t, server.Database(t))
	defer func() { _ = s.Close() }()
	put := func(id string) error { return s.PutSandbox(t.Context(), storetest.Sandbox(id, "acme")) }
	if err := put("ibefore"); err != nil {
		t.Fatal(err)
	}
	server.Down(t, "immediate")
	if err := put("iduring"); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("a write without a database: got %v, want unavailable", err)
	}
	if _, err := s.Sandbox(t.Context(), "", "ibefore"); bulkhead.CodeOf(err) != bulkhead.CodeUnavailable {
		t.Errorf("a read without a database: got %v, want unavailable", err)
	}
	server.Up(t)
	if err := put("iafter"); err != nil {
		t.Errorf("a write after the database came back: %v", err)
	}
	for id, want := range map[string]bulkhead.Code{"ibefore": "", "iduring": bulkhead.CodeNotFound, "iafter": ""} {
		if _, err := s.Sandbox(t.Context(), "", id); bulkhead.CodeOf(err) != want {
			t.Errorf("%s: got %v, want %q", id, err, want)
		}
	}
}

func TestOneServerUsesADatabase(t *testing.T) {
	url := pgtest.Start(t).Database(t)
	first := open(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := store.Open(ctx, url, slog.New(slog.DiscardHandler)); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("a second server: got %v, want conflict", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, url).Close(); err != nil {
		t.Error(err)
	}
}

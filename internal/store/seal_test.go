package store_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/store"
	"github.com/bulkheadhq/bulkhead/internal/store/storetest"
)

// A copy of the database alone has no secret of a sandbox in it, nor one of a key;
// nor can a row's secret be put into another's place.
func TestSecretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	s := openOne(t, filepath.Join(dir, "bulkhead.db"))
	defer func() { _ = s.Close() }()
	sb := storetest.Sandbox("i1", "acme")
	sb.EnvdToken, sb.TrafficToken, sb.Env = "ENVDSECRET", "TRAFFICSECRET", map[string]string{"PASSWORD": "ENVSECRET"}
	other := storetest.Sandbox("i2", "acme")
	for _, x := range []struct{ id string }{{sb.ID}, {other.ID}} {
		put := sb
		put.ID = x.id
		if err := s.PutSandbox(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}
	secret, _, err := s.CreateKey(t.Context(), store.KeyRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{sb.EnvdToken, sb.TrafficToken, "ENVSECRET", secret} {
			if bytes.Contains(b, []byte(text)) {
				t.Errorf("%s has %s in it", f, text)
			}
		}
	}
	if got, err := s.Sandbox(t.Context(), "", "i1"); err != nil || got.EnvdToken != sb.EnvdToken || got.TrafficToken != sb.TrafficToken || got.Env["PASSWORD"] != "ENVSECRET" {
		t.Errorf("read as %+v, %v", got, err)
	}
	if _, err := store.Pools(s)["write"].ExecContext(t.Context(), `UPDATE sandboxes SET
		envd_token = (SELECT envd_token FROM sandboxes WHERE id = 'i1') WHERE id = 'i2'`); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Sandbox(t.Context(), "", "i2"); err != nil || got.EnvdToken == sb.EnvdToken || got.EnvdToken == "" {
		t.Errorf("with another's token in its place: %q, %v", got.EnvdToken, err)
	}
}

// What another key sealed cannot be read, and its doors stay shut; what was written
// before there was a seal can.
func TestSealWithAnotherKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bulkhead.db")
	with := func(options ...store.Option) *store.Store {
		t.Helper()
		s, err := store.Open(t.Context(), path, slog.New(slog.DiscardHandler), options...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := storetest.Sandbox("iplain", "default")
	closed := storetest.Sandbox("iclosed", "default")
	s := with()
	if err := s.PutSandbox(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = with(store.WithSeal(store.SealKey{1}))
	if got, err := s.Sandbox(t.Context(), "", plain.ID); err != nil || got.EnvdToken != plain.EnvdToken || got.Env["A"] != "1" {
		t.Errorf("from before the seal: %+v, %v", got, err)
	}
	if err := s.PutSandbox(t.Context(), closed); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	for name, options := range map[string][]store.Option{"another": {store.WithSeal(store.SealKey{2})}, "none": nil} {
		s = with(options...)
		got, err := s.Sandbox(t.Context(), "", closed.ID)
		if err != nil || len(got.EnvdToken) < 40 || len(got.TrafficToken) < 40 || got.EnvdToken == closed.EnvdToken || got.Env != nil || got.Box != closed.Box {
			t.Errorf("with %s key: %+v, %v", name, got, err)
		}
		_ = s.Close()
	}
}

func TestLoadSealKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	keys := make([]store.SealKey, 16)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = store.LoadSealKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k == (store.SealKey{}) {
			t.Errorf("got %x and %x", keys[0], k)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want the mode 0600", info, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.LoadSealKey(path); err == nil || !strings.Contains(err.Error(), "holds no key of 64 hex digits") {
		t.Errorf("a broken file: %v", err)
	}
}

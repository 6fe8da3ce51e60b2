package script

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

// stores are the implementations that the suite is run against.
func stores(t *testing.T) map[string]interface {
	Store
	KeyValue
} {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scripts.db")
	db, err := OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", fi.Mode(), err)
	}
	return map[string]interface {
		Store
		KeyValue
	}{"memory": NewMemory(), "sqlite": db}
}

func TestStores(t *testing.T) {
	for name, st := range stores(t) {
		t.Run(name+"/scripts", func(t *testing.T) { testScripts(t, st) })
		t.Run(name+"/values", func(t *testing.T) { testValues(t, st) })
	}
}

func testScripts(t *testing.T, st Store) {
	t.Helper()
	ctx := t.Context()
	at := time.UnixMilli(1_700_000_000_123).UTC()
	script := func(name, source string) Script {
		return Script{
			Name: name, Language: "javascript", Source: source, Fingerprint: "f" + source,
			SizeBytes: int64(len(source)), CreatedAt: at,
		}
	}
	put := func(tenant string, s Script) Script {
		t.Helper()
		got, err := st.PutScript(ctx, tenant, s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := put("a", script("x", "one"))
	if again := put("a", script("x", "one")); again.Version != 1 {
		t.Errorf("the same text became version %d", again.Version)
	}
	second := put("a", script("x", "two"))
	put("b", script("x", "other"))
	put("a", script("w", "w"))
	want := script("x", "two")
	want.Version = 2
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("second version (-want +got):\n%s", diff)
	}
	for version, want := range map[int]Script{0: second, 1: first, 2: second} {
		got, err := st.Script(ctx, "a", "x", version)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", version, diff)
		}
	}
	if _, err := st.Script(ctx, "a", "x", 3); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("version 3: %v", err)
	}
	list, err := st.Scripts(ctx, "a")
	if err != nil || len(list) != 2 || list[0].Name != "w" || list[1].Version != 2 || list[1].Source != "" {
		t.Errorf("list %+v, %v", list, err)
	}
	for i := range MaxVersions + 5 {
		put("a", script("many", strconv.Itoa(i)))
	}
	if _, err := st.Script(ctx, "a", "many", 5); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("version 5 of %d is kept: %v", MaxVersions+5, err)
	}
	if _, err := st.Script(ctx, "a", "many", 6); err != nil {
		t.Errorf("version 6: %v", err)
	}
	if err := st.DeleteScript(ctx, "a", "x"); err != nil {
		t.Error(err)
	}
	if err := st.DeleteScript(ctx, "a", "x"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := st.Script(ctx, "b", "x", 0); err != nil {
		t.Errorf("another tenant's script is gone: %v", err)
	}
	for i := range MaxScripts {
		if _, err := st.PutScript(ctx, "c", script(fmt.Sprintf("s%d", i), "1")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.PutScript(ctx, "c", script("more", "1")); bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded {
		t.Errorf("one more than %d scripts: %v", MaxScripts, err)
	}
	put("c", script("s0", "2"))
}

func testValues(t *testing.T, st KeyValue) {
	t.Helper()
	ctx := t.Context()
	set := func(tenant, key, value string) error { return st.Set(ctx, tenant, key, json.RawMessage(value)) }
	for _, kv := range [][3]string{{"a", "k1", "1"}, {"a", "k2", `"two"`}, {"a", "k1", "11"}, {"a", "other", "{}"}, {"b", "k1", "9"}, {"a", "k%", "0"}} {
		if err := set(kv[0], kv[1], kv[2]); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := st.Get(ctx, "a", "k1"); err != nil || string(v) != "11" {
		t.Errorf("k1 is %s, %v", v, err)
	}
	if v, err := st.Get(ctx, "a", "none"); err != nil || v != nil {
		t.Errorf("none is %s, %v", v, err)
	}
	for prefix, want := range map[string][]string{"": {"k%", "k1", "k2", "other"}, "k": {"k%", "k1", "k2"}, "k%": {"k%"}, "z": {}} {
		got, err := st.List(ctx, "a", prefix)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", prefix, diff)
		}
	}
	for want, key := range map[bool]string{true: "k2", false: "none"} {
		if got, err := st.Delete(ctx, "a", key); err != nil || got != want {
			t.Errorf("delete %s: %v, %v", key, got, err)
		}
	}
	for _, c := range []struct {
		key  string
		size int
		want bulkhead.Code
	}{
		{"", 1, bulkhead.CodeInvalid},
		{strings.Repeat("k", MaxKey+1), 1, bulkhead.CodeInvalid},
		{"k", MaxValue + 1, bulkhead.CodeTooLarge},
	} {
		if err := set("a", c.key, strings.Repeat("1", c.size)); bulkhead.CodeOf(err) != c.want {
			t.Errorf("key of %d and value of %d bytes: %v, want %v", len(c.key), c.size, err, c.want)
		}
	}
	full := strings.Repeat("1", MaxValue)
	var err error
	n := 0
	for ; err == nil && n <= MaxTotal/MaxValue; n++ {
		err = set("full", strconv.Itoa(n), full)
	}
	if bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded || n != MaxTotal/MaxValue {
		t.Errorf("%d values of %d bytes: %v", n, MaxValue, err)
	}
	if err := set("full", "0", full); err != nil {
		t.Errorf("a value could not be replaced in a full store: %v", err)
	}
}

func TestSQLiteKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	ctx := context.WithoutCancel(t.Context())
	for i := range 2 {
		db, err := OpenSQLite(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := db.Set(ctx, "a", "k", json.RawMessage("1")); err != nil {
				t.Fatal(err)
			}
		} else if v, err := db.Get(ctx, "a", "k"); err != nil || string(v) != "1" {
			t.Errorf("after opening again: %s, %v", v, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenSQLite(ctx, filepath.Join(path, "not", "here")); err == nil {
		t.Error("no error for a path that cannot be")
	}
}

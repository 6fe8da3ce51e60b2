package storetest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// script returns a script with every field set but its version.
func script(name, source string) bulkhead.Script {
	return bulkhead.Script{
		Name: name, Language: "javascript", Source: source, Fingerprint: "f" + source, SizeBytes: int64(len(source)), CreatedAt: epoch,
	}
}

// putScript stores a script that must be taken.
func putScript(t *testing.T, s Store, tenant string, sc bulkhead.Script) bulkhead.Script {
	t.Helper()
	got, err := s.PutScript(t.Context(), tenant, sc)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func testScripts(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	if list, err := s.Scripts(ctx, "acme"); err != nil || len(list) != 0 {
		t.Errorf("none: %+v, %v", list, err)
	}
	first := putScript(t, s, "acme", script("x", "one"))
	if again := putScript(t, s, "acme", script("x", "one")); again.Version != 1 {
		t.Errorf("the same text became version %d", again.Version)
	}
	second := putScript(t, s, "acme", script("x", "two \u2028 'ü\""))
	putScript(t, s, "umbrella", script("x", "theirs"))
	for _, name := range []string{"x.y", "w", "x-y", "x_y"} {
		putScript(t, s, "acme", script(name, "w"))
	}
	want := script("x", "two \u2028 'ü\"")
	want.Version = 2
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("second version (-want +got):\n%s", diff)
	}
	for version, want := range map[int]bulkhead.Script{0: second, 1: first, 2: second} {
		got, err := s.Script(ctx, "acme", "x", version)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("version %d (-want +got): %v\n%s", version, err, diff)
		}
	}
	if _, err := s.Script(ctx, "acme", "x", 3); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("version 3: got %v, want not_found", err)
	}
	list, err := s.Scripts(ctx, "acme")
	var names []string
	for _, sc := range list {
		names = append(names, fmt.Sprint(sc.Name, sc.Version, sc.Source))
	}
	if diff := cmp.Diff([]string{"w1", "x2", "x-y1", "x.y1", "x_y1"}, names); diff != "" || err != nil {
		t.Errorf("list (-want +got): %v\n%s", err, diff)
	}
	if err := s.DeleteScript(ctx, "acme", "x"); err != nil {
		t.Error(err)
	}
	if err := s.DeleteScript(ctx, "acme", "x"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("deleted twice: got %v, want not_found", err)
	}
	if _, err := s.Script(ctx, "umbrella", "x", 0); err != nil {
		t.Errorf("another tenant's script is gone: %v", err)
	}
	for name, c := range map[string]struct {
		tenant, source string
		want           bulkhead.Code
	}{
		"tenant":    {"nobody", "1", bulkhead.CodeNotFound},
		"zero byte": {"acme", "\x00", bulkhead.CodeInvalid},
	} {
		if _, err := s.PutScript(ctx, c.tenant, script("x", c.source)); bulkhead.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func testScriptBounds(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	for i := range store.MaxVersions + 5 {
		putScript(t, s, "acme", script("many", strconv.Itoa(i)))
	}
	if _, err := s.Script(ctx, "acme", "many", 5); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("version 5 of %d: got %v, want not_found", store.MaxVersions+5, err)
	}
	if _, err := s.Script(ctx, "acme", "many", 6); err != nil {
		t.Errorf("version 6: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 10 { // together, so that they share commits
		wg.Go(func() {
			for n := i; n < store.MaxScripts; n += 10 {
				if _, err := s.PutScript(ctx, "umbrella", script(fmt.Sprintf("s%d", n), "1")); err != nil {
					t.Errorf("script %d of %d: %v", n, store.MaxScripts, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := s.PutScript(ctx, "umbrella", script("more", "1")); bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded {
		t.Errorf("one more than %d scripts: got %v, want quota_exceeded", store.MaxScripts, err)
	}
	putScript(t, s, "umbrella", script("s0", "2"))
	large := script("large", "")
	large.SizeBytes = store.MaxScriptBytes
	if _, err := s.PutScript(ctx, "acme", large); bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded {
		t.Errorf("more than %d bytes: got %v, want quota_exceeded", store.MaxScriptBytes, err)
	}
}

func testValues(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	for _, kv := range [][3]string{
		{"acme", "k1", "1"},
		{"acme", "k2", `"two \u0000"`},
		{"acme", "k1", "11"},
		{"acme", "Other", "{}"},
		{"umbrella", "k1", "9"},
		{"acme", "k%", "0"},
		{"acme", "ü", "0"},
	} {
		if err := s.SetValue(ctx, kv[0], kv[1], json.RawMessage(kv[2])); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]string{"k1": "11", "k2": `"two \u0000"`, "none": "", "\x00": ""} {
		if v, err := s.Value(ctx, "acme", key); err != nil || string(v) != want || (v == nil) != (want == "") {
			t.Errorf("%q is %s, %v; want %s", key, v, err, want)
		}
	}
	for prefix, want := range map[string][]string{
		"": {"Other", "k%", "k1", "k2", "ü"}, "k": {"k%", "k1", "k2"}, "k%": {"k%"}, "ü": {"ü"}, "z": nil, "\x00": nil,
	} {
		got, err := s.Keys(ctx, "acme", prefix)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("keys %q (-want +got): %v\n%s", prefix, err, diff)
		}
	}
	for key, want := range map[string]bool{"k2": true, "none": false, "\x00": false} {
		if got, err := s.DeleteValue(ctx, "acme", key); err != nil || got != want {
			t.Errorf("delete %q: %v, %v", key, got, err)
		}
	}
	for name, c := range map[string]struct {
		tenant, key string
		size        int
		want        bulkhead.Code
	}{
		"no key":    {"acme", "", 1, bulkhead.CodeInvalid},
		"long key":  {"acme", strings.Repeat("k", store.MaxKey+1), 1, bulkhead.CodeInvalid},
		"zero byte": {"acme", "a\x00", 1, bulkhead.CodeInvalid},
		"value":     {"acme", "k", store.MaxValue + 1, bulkhead.CodeTooLarge},
		"tenant":    {"nobody", "k", 1, bulkhead.CodeNotFound},
	} {
		if err := s.SetValue(ctx, c.tenant, c.key, json.RawMessage(strings.Repeat("1", c.size))); bulkhead.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func testValueBounds(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	set := func(tenant string, n, size int) error {
		return s.SetValue(ctx, tenant, strconv.Itoa(n), json.RawMessage(strings.Repeat("1", size)))
	}
	var err error
	n := 0
	for ; err == nil && n <= store.MaxTotal/store.MaxValue; n++ {
		err = set("acme", n, store.MaxValue)
	}
	if bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded || n != store.MaxTotal/store.MaxValue {
		t.Errorf("value %d of %d bytes: got %v, want quota_exceeded", n, store.MaxValue, err)
	}
	if err := set("acme", 0, store.MaxValue); err != nil {
		t.Errorf("a value could not be replaced in a full store: %v", err)
	}
	if ok, err := s.DeleteValue(ctx, "acme", "0"); !ok || err != nil {
		t.Errorf("delete: %v, %v", ok, err)
	}
	if err := set("acme", n, store.MaxValue); err != nil {
		t.Errorf("a value could not be set where one was deleted: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 10 { // together, so that they share commits
		wg.Go(func() {
			for n := i; n < store.MaxKeys; n += 10 {
				if err := set("umbrella", n, 1); err != nil {
					t.Errorf("key %d of %d: %v", n, store.MaxKeys, err)
				}
			}
		})
	}
	wg.Wait()
	if err := set("umbrella", store.MaxKeys, 1); bulkhead.CodeOf(err) != bulkhead.CodeQuotaExceeded {
		t.Errorf("one more than %d keys: got %v, want quota_exceeded", store.MaxKeys, err)
	}
	if err := set("umbrella", 0, 2); err != nil {
		t.Errorf("a value could not be replaced among %d: %v", store.MaxKeys, err)
	}
}

// testScriptsOfDeletedTenant sees that a tenant of the same name finds nothing.
func testScriptsOfDeletedTenant(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	putScript(t, s, "acme", script("x", "1"))
	if err := s.SetValue(ctx, "acme", "k", json.RawMessage("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteTenant(ctx, "acme", false); err != nil {
		t.Fatal(err)
	}
	if err := s.SetValue(ctx, "acme", "late", json.RawMessage("1")); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a late value: got %v, want not_found", err)
	}
	if _, err := s.CreateTenant(ctx, bulkhead.Tenant{ID: "acme", Tier: "basic"}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Scripts(ctx, "acme"); len(list) > 0 || err != nil {
		t.Errorf("scripts: %+v, %v", list, err)
	}
	if keys, err := s.Keys(ctx, "acme", ""); len(keys) > 0 || err != nil {
		t.Errorf("keys: %q, %v", keys, err)
	}
}

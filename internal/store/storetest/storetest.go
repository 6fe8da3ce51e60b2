// Package storetest says what every store must do, as one suite of tests that
// each implementation runs against itself.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// Store is what the suite asks of an implementation. The contracts are those of
// the methods of [store.Store].
type Store interface {
	PutSandbox(ctx context.Context, sb bulkhead.Sandbox) error
	EndSandbox(ctx context.Context, id string, end bulkhead.End) error
	Sandbox(ctx context.Context, tenant, id string) (bulkhead.Sandbox, error)
	Sandboxes(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error)
	Ended(ctx context.Context, f bulkhead.Filter, latest time.Time, limit int) ([]bulkhead.Sandbox, error)
	Prune(ctx context.Context, before time.Time) (int64, error)
	CreateKey(ctx context.Context, req store.KeyRequest) (string, store.Key, error)
	ChangeKey(ctx context.Context, tenant, id string, c store.KeyChange) (store.Key, error)
	RotateKey(ctx context.Context, tenant, id string, grace time.Duration) (string, store.Key, error)
	Key(ctx context.Context, tenant, id string) (store.Key, error)
	LookupKey(ctx context.Context, hash [sha256.Size]byte) (store.Key, error)
	RevokeKey(ctx context.Context, tenant, id string) error
	ListKeys(ctx context.Context, tenant string) ([]store.Key, error)
	Tenant(ctx context.Context, id string) (bulkhead.Tenant, error)
	Tenants(ctx context.Context) ([]bulkhead.Tenant, error)
	CreateTenant(ctx context.Context, t bulkhead.Tenant) (bulkhead.Tenant, error)
	UpdateTenant(ctx context.Context, id string, change func(*bulkhead.Tenant) error) (bulkhead.Tenant, error)
	DeleteTenant(ctx context.Context, id string, force bool) error
	Tier(ctx context.Context, name string) (bulkhead.Tier, error)
	Tiers(ctx context.Context) ([]bulkhead.Tier, error)
	PutTier(ctx context.Context, t bulkhead.Tier) error
	DeleteTier(ctx context.Context, name string) error
	AddUsage(ctx context.Context, metered []bulkhead.Metered) error
	Usage(ctx context.Context, q store.UsageQuery) ([]store.UsageRow, error)
	UsageToday(ctx context.Context, tenant string) (bulkhead.Usage, error)
	Meter(ctx context.Context, sandbox string) (bulkhead.Meter, error)
	FoldUsage(ctx context.Context, before time.Time) error
	Record(ctx context.Context, a bulkhead.Act) error
	Acts(ctx context.Context, q store.ActQuery) ([]bulkhead.Act, error)
	PruneActs(ctx context.Context, before time.Time) error
	Pools(ctx context.Context) ([]store.Pool, error)
	PutPools(ctx context.Context, pools ...store.Pool) error
	PutScript(ctx context.Context, tenant string, sc bulkhead.Script) (bulkhead.Script, error)
	Script(ctx context.Context, tenant, name string, version int) (bulkhead.Script, error)
	Scripts(ctx context.Context, tenant string) ([]bulkhead.Script, error)
	DeleteScript(ctx context.Context, tenant, name string) error
	Value(ctx context.Context, tenant, key string) (json.RawMessage, error)
	SetValue(ctx context.Context, tenant, key string, value json.RawMessage) error
	DeleteValue(ctx context.Context, tenant, key string) (bool, error)
	Keys(ctx context.Context, tenant, prefix string) ([]string, error)
	Close() error
}

// Open returns a store on the database called name: empty the first time, with
// what was in it after that. The suite closes what it opens.
type Open func(t *testing.T, name string) Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Transitions", testTransitions},
		{"PutRefuses", testPutRefuses},
		{"FirstEndStands", testFirstEndStands},
		{"OtherTenants", testOtherTenants},
		{"Filter", testFilter},
		{"Ended", testEnded},
		{"Prune", testPrune},
		{"Keys", testKeys},
		{"KeyRefuses", testKeyRefuses},
		{"Rotate", testRotate},
		{"Tenants", testTenants},
		{"TenantRefuses", testTenantRefuses},
		{"DeleteTenant", testDeleteTenant},
		{"Tiers", testTiers},
		{"ConcurrentUpdates", testConcurrentUpdates},
		{"CreateBesideDelete", testCreateBesideDelete},
		{"Usage", testUsage},
		{"UsageOverDays", testUsageOverDays},
		{"ConcurrentUsage", testConcurrentUsage},
		{"Acts", testActs},
		{"HostileText", testHostileText},
		{"ConcurrentWrites", testConcurrentWrites},
		{"CancelledWrite", testCancelledWrite},
		{"Pools", testPools},
		{"Scripts", testScripts},
		{"ScriptBounds", testScriptBounds},
		{"Values", testValues},
		{"ValueBounds", testValueBounds},
		{"ScriptsOfDeletedTenant", testScriptsOfDeletedTenant},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, c.name)
			defer closeStore(t, s)
			tenants(t, s)
			c.test(t, s)
		})
	}
	t.Run("Reopen", func(t *testing.T) { testReopen(t, open) })
	t.Run("Closed", func(t *testing.T) {
		s := open(t, "Closed")
		closeStore(t, s)
		if err := s.PutSandbox(t.Context(), Sandbox("ia", "acme")); err == nil {
			t.Error("PutSandbox after Close gave no error")
		}
	})
}

// epoch is when the suite's sandboxes start; it has nanoseconds to lose.
var epoch = time.Date(2026, 11, 22, 2, 30, 0, 123456789, time.UTC)

// Sandbox returns a running sandbox with every field set.
func Sandbox(id, tenant string) bulkhead.Sandbox {
	return bulkhead.Sandbox{
		ID: id, Tenant: tenant, TemplateID: "tpl00000000000000001", Template: "base",
		TemplateDigest: "sha256:00", State: bulkhead.StateRunning, StartedAt: epoch,
		EndAt: epoch.Add(5 * time.Minute), Limits: bulkhead.DefaultLimits(),
		Allocation: &bulkhead.Allocation{
			Sandbox: id, Tenant: tenant, Limits: bulkhead.DefaultLimits(), TTLSeconds: 300, Priority: 4, At: epoch,
			Reasons: []bulkhead.Reason{{Field: "cpu", Asked: 4, Granted: 2, Detail: "4 cores \u00d7 0.5 for tier 'free'"}},
		},
		Metadata:  map[string]string{"user": "ada", "schl\u00fcssel": "a'b\"c\u2028d", "empty": ""},
		Env:       map[string]string{"A": "1"},
		EnvdToken: "et", TrafficToken: "tt", AllowInternet: true, MaskHost: "localhost:${PORT}",
		Network:     bulkhead.Network{AllowOut: []string{"*.example.com"}, DenyOut: []string{bulkhead.AllTraffic}},
		EnvdVersion: "0.6.4", Address: "10.0.0.2", Box: "box-1",
	}
}

func testRoundTrip(t *testing.T, s Store) {
	t.Helper()
	want := Sandbox("iroundtrip", "acme")
	want.State = bulkhead.StateStarting
	put(t, s, want)
	check(t, s, want)

	want.State, want.EndAt, want.AllowInternet = bulkhead.StateRunning, epoch.Add(time.Hour), false
	want.Network = bulkhead.Network{}
	want.Metadata, want.Env, want.Address, want.EnvdToken, want.Box = nil, nil, "10.0.0.3", "other", "box-2"
	want.Limits.CPU, want.Allocation = 1, nil
	put(t, s, want)
	check(t, s, want)

	want.State = bulkhead.StateEnding
	want.End = &bulkhead.End{Cause: bulkhead.CauseMemoryLimit, At: epoch.Add(time.Second), Limit: 64 << 20, Peak: 65 << 20}
	put(t, s, want)
	check(t, s, want)

	want.State = bulkhead.StateEnded
	want.End = &bulkhead.End{
		Cause: bulkhead.CauseMemoryLimit, At: epoch.Add(2 * time.Second), ExitCode: 137,
		Limit: 64 << 20, Peak: 66 << 20, Detail: "needed more than 64 MiB",
	}
	if err := s.EndSandbox(t.Context(), want.ID, *want.End); err != nil {
		t.Fatal(err)
	}
	check(t, s, want)
}

func testTransitions(t *testing.T, s Store) {
	t.Helper()
	states := []bulkhead.State{bulkhead.StateStarting, bulkhead.StateRunning, bulkhead.StateEnding}
	for i, from := range states {
		for j, to := range states {
			sb := Sandbox(fmt.Sprintf("i%d%d", i, j), "acme")
			for _, state := range states[:i+1] {
				sb.State = state
				put(t, s, sb)
			}
			sb.State = to
			err := s.PutSandbox(t.Context(), sb)
			want := bulkhead.Code("")
			if from != to && !from.May(to) {
				want = bulkhead.CodeConflict
			}
			if got := bulkhead.CodeOf(err); got != want {
				t.Errorf("%s to %s: got %q (%v), want %q", from, to, got, err, want)
			}
			if err := s.EndSandbox(t.Context(), sb.ID, bulkhead.End{Cause: bulkhead.CauseKilled, At: epoch}); err != nil {
				t.Errorf("end one that was %s: %v", from, err)
			}
			if err := s.PutSandbox(t.Context(), sb); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
				t.Errorf("ended to %s: got %v, want conflict", to, err)
			}
		}
	}
}

func testPutRefuses(t *testing.T, s Store) {
	t.Helper()
	for _, c := range []struct {
		name   string
		change func(*bulkhead.Sandbox)
		want   bulkhead.Code
	}{
		{"no id", func(sb *bulkhead.Sandbox) { sb.ID = "" }, bulkhead.CodeInvalid},
		{"no tenant", func(sb *bulkhead.Sandbox) { sb.Tenant = "" }, bulkhead.CodeInvalid},
		{"ended", func(sb *bulkhead.Sandbox) { sb.State = bulkhead.StateEnded }, bulkhead.CodeInvalid},
		{"no state", func(sb *bulkhead.Sandbox) { sb.State = "" }, bulkhead.CodeInvalid},
		{"no such state", func(sb *bulkhead.Sandbox) { sb.State = "'; DROP TABLE sandboxes --" }, bulkhead.CodeInvalid},
		{"ending an unknown one", func(sb *bulkhead.Sandbox) { sb.State = bulkhead.StateEnding }, bulkhead.CodeNotFound},
	} {
		sb := Sandbox("irefused", "acme")
		c.change(&sb)
		if err := s.PutSandbox(t.Context(), sb); bulkhead.CodeOf(err) != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	if got := ids(t, s, bulkhead.Filter{}); len(got) != 0 {
		t.Errorf("refused sandboxes were kept: %v", got)
	}
	if err := s.EndSandbox(t.Context(), "iunknown", bulkhead.End{}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("end an unknown one: got %v, want not_found", err)
	}
}

func testFirstEndStands(t *testing.T, s Store) {
	t.Helper()
	put(t, s, Sandbox("ifirst", "acme"))
	causes := bulkhead.Causes()
	errs := make([]error, len(causes))
	var wg sync.WaitGroup
	for i, cause := range causes {
		wg.Go(func() { errs[i] = s.EndSandbox(t.Context(), "ifirst", bulkhead.End{Cause: cause, At: epoch}) })
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch bulkhead.CodeOf(err) {
		case "":
			if won >= 0 {
				t.Errorf("both %s and %s were taken", causes[won], causes[i])
			}
			won = i
		case bulkhead.CodeConflict:
		default:
			t.Errorf("end with %s: %v", causes[i], err)
		}
	}
	sb, err := s.Sandbox(t.Context(), "", "ifirst")
	if err != nil || won < 0 || sb.End == nil || sb.End.Cause != causes[won] {
		t.Errorf("got %+v, %v; want the end that was taken (%d)", sb.End, err, won)
	}
}

func testOtherTenants(t *testing.T, s Store) {
	t.Helper()
	put(t, s, Sandbox("imine", "acme"))
	if _, err := s.Sandbox(t.Context(), "umbrella", "imine"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's sandbox: got %v, want not_found", err)
	}
	theirs := Sandbox("imine", "umbrella")
	if err := s.PutSandbox(t.Context(), theirs); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("take another tenant's id: got %v, want conflict", err)
	}
	check(t, s, Sandbox("imine", "acme"))
}

func testFilter(t *testing.T, s Store) {
	t.Helper()
	for i, c := range []struct{ id, tenant, template, user string }{
		{"i1", "acme", "base", "ada"},
		{"i2", "acme", "code", "bob"},
		{"i3", "umbrella", "base", "ada"},
		{"i4", "acme", "base", "ada"},
	} {
		sb := Sandbox(c.id, c.tenant)
		sb.Template, sb.Metadata = c.template, map[string]string{"user": c.user, "n": "1"}
		sb.StartedAt = epoch.Add(time.Duration(i) * time.Nanosecond)
		put(t, s, sb)
	}
	if err := s.EndSandbox(t.Context(), "i4", bulkhead.End{Cause: bulkhead.CauseExpired, At: epoch}); err != nil {
		t.Fatal(err)
	}
	live := []bulkhead.State{bulkhead.StateStarting, bulkhead.StateRunning, bulkhead.StateEnding}
	for _, c := range []struct {
		name string
		f    bulkhead.Filter
		want []string
	}{
		{"all", bulkhead.Filter{}, []string{"i4", "i3", "i2", "i1"}},
		{"tenant", bulkhead.Filter{Tenant: "acme"}, []string{"i4", "i2", "i1"}},
		{"live", bulkhead.Filter{States: live}, []string{"i3", "i2", "i1"}},
		{"ended", bulkhead.Filter{States: []bulkhead.State{bulkhead.StateEnded}}, []string{"i4"}},
		{"hostile state", bulkhead.Filter{States: []bulkhead.State{"') OR ('1'='1"}}, nil},
		{"template", bulkhead.Filter{Template: "code"}, []string{"i2"}},
		{"template id", bulkhead.Filter{Template: "tpl00000000000000001", Tenant: "umbrella"}, []string{"i3"}},
		{"metadata", bulkhead.Filter{Metadata: map[string]string{"user": "ada", "n": "1"}}, []string{"i4", "i3", "i1"}},
		{"metadata differs", bulkhead.Filter{Metadata: map[string]string{"user": "ada", "n": "2"}}, nil},
		{"metadata empty value", bulkhead.Filter{Metadata: map[string]string{"missing": ""}}, nil},
		{"started after", bulkhead.Filter{StartedAfter: epoch.Add(1)}, []string{"i4", "i3"}},
		{"together", bulkhead.Filter{Tenant: "acme", States: live, Template: "base", StartedAfter: epoch.Add(-1)}, []string{"i1"}},
	} {
		if diff := cmp.Diff(c.want, ids(t, s, c.f)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func testEnded(t *testing.T, s Store) {
	t.Helper()
	for i := range 6 { // the even ones ended, the fifth is another tenant's
		sb := Sandbox(fmt.Sprintf("i%d", i), "acme")
		if i == 4 {
			sb.Tenant = "umbrella"
		}
		sb.StartedAt = epoch.Add(time.Duration(i) * time.Second)
		sb.Metadata = map[string]string{"n": strconv.Itoa(i)}
		put(t, s, sb)
		if i%2 == 0 {
			if err := s.EndSandbox(t.Context(), sb.ID, bulkhead.End{Cause: bulkhead.CauseKilled, At: epoch}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		f      bulkhead.Filter
		latest time.Time
		limit  int
		want   []string
	}{
		{"all", bulkhead.Filter{}, time.Time{}, 9, []string{"i4", "i2", "i0"}},
		{"tenant", bulkhead.Filter{Tenant: "acme"}, time.Time{}, 9, []string{"i2", "i0"}},
		{"limit", bulkhead.Filter{}, time.Time{}, 2, []string{"i4", "i2"}},
		{"latest", bulkhead.Filter{}, epoch.Add(2 * time.Second), 9, []string{"i2", "i0"}},
		{"states are those that ended", bulkhead.Filter{States: []bulkhead.State{bulkhead.StateRunning}}, time.Time{}, 9, []string{"i4", "i2", "i0"}},
		{"the limit counts what is selected", bulkhead.Filter{Metadata: map[string]string{"n": "0"}}, time.Time{}, 1, []string{"i0"}},
	} {
		found, err := s.Ended(t.Context(), c.f, c.latest, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, sb := range found {
			got = append(got, sb.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func testPrune(t *testing.T, s Store) {
	t.Helper()
	const ended = 1200 // more than one batch
	var wg sync.WaitGroup
	for i := range ended {
		wg.Go(func() {
			sb := Sandbox(fmt.Sprintf("i%04d", i), "acme")
			if err := s.PutSandbox(t.Context(), sb); err != nil {
				t.Error(err)
			}
			at := epoch.Add(time.Duration(i) * time.Second)
			if err := s.EndSandbox(t.Context(), sb.ID, bulkhead.End{Cause: bulkhead.CauseKilled, At: at}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	put(t, s, Sandbox("ialive", "acme"))
	n, err := s.Prune(t.Context(), epoch.Add((ended-1)*time.Second))
	if err != nil || n != ended-1 {
		t.Errorf("pruned %d, %v; want %d", n, err, ended-1)
	}
	if diff := cmp.Diff([]string{"ialive", "i1199"}, ids(t, s, bulkhead.Filter{})); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func testKeys(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	secret, k, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "acme", Name: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	if len(secret) != 44 || secret[:4] != "e2b_" || k.Prefix != secret[:8] {
		t.Errorf("secret %q with prefix %q; want e2b_ and 40 hex digits", secret, k.Prefix)
	}
	got, err := s.LookupKey(ctx, store.HashKey(secret))
	if diff := cmp.Diff(k, got); diff != "" || err != nil {
		t.Errorf("looked up (-want +got): %v\n%s", err, diff)
	}
	if !k.May(store.ScopeRun) || k.May(store.ScopeManage) || k.May(store.ScopeAdmin) {
		t.Errorf("default scopes are %v", k.Scopes)
	}
	own := strings.Repeat("operator", 3)
	admin, adminKey, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "ops", Scopes: []string{store.ScopeAdmin}, Secret: own})
	if err != nil || admin != own {
		t.Fatalf("got %q, %v", admin, err)
	}
	if _, _, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "acme", Secret: admin}); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("the same secret again: got %v, want conflict", err)
	}
	if _, err := s.LookupKey(ctx, store.HashKey("e2b_0")); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("unknown key: got %v, want not_found", err)
	}
	if err := s.RevokeKey(ctx, "ops", k.ID); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("revoke another tenant's key: got %v, want not_found", err)
	}
	for range 2 {
		if err := s.RevokeKey(ctx, "acme", k.ID); err != nil {
			t.Errorf("revoke: %v", err)
		}
	}
	if _, err := s.LookupKey(ctx, store.HashKey(secret)); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("revoked key: got %v, want not_found", err)
	}
	all, err := s.ListKeys(ctx, "")
	if err != nil || len(all) != 2 || all[0].ID != k.ID || all[0].RevokedAt.IsZero() || all[1].ID != adminKey.ID {
		t.Errorf("all keys: %+v, %v", all, err)
	}
	mine, err := s.ListKeys(ctx, "ops")
	if diff := cmp.Diff([]store.Key{adminKey}, mine); diff != "" || err != nil {
		t.Errorf("keys of ops (-want +got): %v\n%s", err, diff)
	}
}

func testKeyRefuses(t *testing.T, s Store) {
	t.Helper()
	long := string(make([]byte, 129))
	for name, req := range map[string]store.KeyRequest{
		"no tenant":       {},
		"a negative rate": {Tenant: "a", RequestsPerSecond: -1},
		"a tiny rate":     {Tenant: "a", CreatesPerSecond: 1e-9},
		"long tenant":     {Tenant: long},
		"long name":       {Tenant: "a", Name: long},
		"short secret":    {Tenant: "a", Secret: "secret"},
		"no such scope":   {Tenant: "a", Scopes: []string{"root"}},
	} {
		if _, _, err := s.CreateKey(t.Context(), req); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	if _, _, err := s.CreateKey(t.Context(), store.KeyRequest{Tenant: "nobody"}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a tenant that there is not: got %v, want not_found", err)
	}
}

func testConcurrentWrites(t *testing.T, s Store) {
	t.Helper()
	const writers = 300
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			sb := Sandbox(fmt.Sprintf("i%03d", i/2), "acme") // two writers for each
			if err := s.PutSandbox(t.Context(), sb); err != nil {
				t.Errorf("put %s: %v", sb.ID, err)
			}
			if _, err := s.Sandbox(t.Context(), "acme", sb.ID); err != nil {
				t.Errorf("read one's own write of %s: %v", sb.ID, err)
			}
			if err := s.EndSandbox(t.Context(), "inone", bulkhead.End{}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
				t.Errorf("end unknown: %v", err)
			}
		})
	}
	wg.Wait()
	if got := len(ids(t, s, bulkhead.Filter{Tenant: "acme"})); got != writers/2 {
		t.Errorf("%d sandboxes, want %d", got, writers/2)
	}
}

func testCancelledWrite(t *testing.T, s Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutSandbox(ctx, Sandbox("icancelled", "acme")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if got := ids(t, s, bulkhead.Filter{}); len(got) != 0 {
		t.Errorf("a cancelled write left %v", got)
	}
}

func testPools(t *testing.T, s Store) {
	t.Helper()
	if got, err := s.Pools(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("an empty store has %v, %v", got, err)
	}
	for _, step := range [][]store.Pool{
		{{Template: "b"}, {Template: "ns/a:1", Forecast: []byte(`{"version":1}`), Pin: &store.PoolSize{Warm: 4}}},
		{{Template: "b", Forecast: []byte(`{"now":" "}`), Pin: &store.PoolSize{Warm: 1, Cold: 2}}},
		{{Template: "ns/a:1", Forecast: []byte(`{}`)}},
	} {
		if err := s.PutPools(t.Context(), step...); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].SavedAt.IsZero() {
			t.Errorf("%s was never saved", got[i].Template)
		}
		got[i].SavedAt = time.Time{}
	}
	if diff := cmp.Diff([]store.Pool{
		{Template: "b", Forecast: []byte(`{"now":" "}`), Pin: &store.PoolSize{Warm: 1, Cold: 2}},
		{Template: "ns/a:1", Forecast: []byte(`{}`)},
	}, got); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
}

func testReopen(t *testing.T, open Open) {
	t.Helper()
	s := open(t, "Reopen")
	tenants(t, s)
	want := Sandbox("ikept", "acme")
	put(t, s, want)
	secret, _, err := s.CreateKey(t.Context(), store.KeyRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = open(t, "Reopen")
	defer closeStore(t, s)
	check(t, s, want)
	if _, err := s.LookupKey(t.Context(), store.HashKey(secret)); err != nil {
		t.Errorf("key after reopening: %v", err)
	}
}

// tenants makes those that the suite uses.
func tenants(t *testing.T, s Store) {
	t.Helper()
	for _, id := range []string{"acme", "umbrella", "ops"} {
		if _, err := s.CreateTenant(t.Context(), bulkhead.Tenant{ID: id, Tier: "basic"}); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, s Store, sb bulkhead.Sandbox) {
	t.Helper()
	if err := s.PutSandbox(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, s Store, want bulkhead.Sandbox) {
	t.Helper()
	got, err := s.Sandbox(t.Context(), want.Tenant, want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sandbox (-want +got):\n%s", diff)
	}
}

func ids(t *testing.T, s Store, f bulkhead.Filter) []string {
	t.Helper()
	found, err := s.Sandboxes(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, sb := range found {
		out = append(out, sb.ID)
	}
	return out
}

func closeStore(t *testing.T, s Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// clients is how many the tests of races have.
const clients = 64

func testTenants(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	own, err := s.Tenant(ctx, bulkhead.DefaultTenant)
	if err != nil || own.Tier != bulkhead.TierUnlimited || own.Quota != (bulkhead.Quota{}) {
		t.Errorf("the default tenant: %+v, %v", own, err)
	}
	before := time.Now().UTC()
	made, err := s.CreateTenant(ctx, bulkhead.Tenant{ID: "new", Name: "Newcomer", Tier: "free", Quota: bulkhead.Quota{
		Sandboxes: 3, CPU: 1.5, Sandbox: bulkhead.Limits{MemoryMB: 512}, GBHoursPerDay: 0.25,
	}})
	if err != nil || made.CreatedAt.Before(before) {
		t.Fatalf("made %+v, %v", made, err)
	}
	got, err := s.Tenant(ctx, "new")
	if diff := cmp.Diff(made, got); diff != "" || err != nil {
		t.Errorf("read (-want +got): %v\n%s", err, diff)
	}
	changed, err := s.UpdateTenant(ctx, "new", func(x *bulkhead.Tenant) error {
		x.ID, x.CreatedAt = "other", time.Time{} // not for a caller to change
		x.Tier, x.Quota.CPU, x.Quota.Sandboxes = "premium", 0, 4
		return nil
	})
	made.Tier, made.Quota.CPU, made.Quota.Sandboxes = "premium", 0, 4
	if diff := cmp.Diff(made, changed); diff != "" || err != nil {
		t.Errorf("update returned (-want +got): %v\n%s", err, diff)
	}
	if got, err = s.Tenant(ctx, "new"); cmp.Diff(made, got) != "" || err != nil {
		t.Errorf("read after an update: %+v, %v; want %+v", got, err, made)
	}
	all, err := s.Tenants(ctx)
	var names []string
	for _, x := range all {
		names = append(names, x.ID)
	}
	if diff := cmp.Diff([]string{"acme", "default", "new", "ops", "umbrella"}, names); diff != "" || err != nil {
		t.Errorf("all (-want +got): %v\n%s", err, diff)
	}
}

func testTenantRefuses(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	for name, c := range map[string]struct {
		tenant bulkhead.Tenant
		want   bulkhead.Code
	}{
		"no id":        {bulkhead.Tenant{Tier: "free"}, bulkhead.CodeInvalid},
		"a path":       {bulkhead.Tenant{ID: "../x", Tier: "free"}, bulkhead.CodeInvalid},
		"a control":    {bulkhead.Tenant{ID: "a\nb", Tier: "free"}, bulkhead.CodeInvalid},
		"no tier":      {bulkhead.Tenant{ID: "x"}, bulkhead.CodeInvalid},
		"no such tier": {bulkhead.Tenant{ID: "x", Tier: "gold"}, bulkhead.CodeInvalid},
		"quota":        {bulkhead.Tenant{ID: "x", Tier: "free", Quota: bulkhead.Quota{CPU: -1}}, bulkhead.CodeInvalid},
		"limits":       {bulkhead.Tenant{ID: "x", Tier: "free", Quota: bulkhead.Quota{Sandbox: bulkhead.Limits{Pids: 1}}}, bulkhead.CodeInvalid},
		"taken":        {bulkhead.Tenant{ID: "acme", Tier: "free"}, bulkhead.CodeConflict},
	} {
		if _, err := s.CreateTenant(ctx, c.tenant); bulkhead.CodeOf(err) != c.want {
			t.Errorf("create with %s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := s.Tenant(ctx, "x"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a refused tenant: got %v, want not_found", err)
	}
	for name, c := range map[string]struct {
		id     string
		change func(*bulkhead.Tenant) error
		want   bulkhead.Code
	}{
		"unknown":      {"x", func(*bulkhead.Tenant) error { return nil }, bulkhead.CodeNotFound},
		"no such tier": {"acme", func(x *bulkhead.Tenant) error { x.Tier = "gold"; return nil }, bulkhead.CodeInvalid},
		"quota":        {"acme", func(x *bulkhead.Tenant) error { x.Quota.DiskMB = -1; return nil }, bulkhead.CodeInvalid},
		"its own":      {"acme", func(*bulkhead.Tenant) error { return bulkhead.Errorf(bulkhead.CodeConflict, "no") }, bulkhead.CodeConflict},
	} {
		if _, err := s.UpdateTenant(ctx, c.id, c.change); bulkhead.CodeOf(err) != c.want {
			t.Errorf("update with %s: got %v, want %s", name, err, c.want)
		}
	}
	if got, err := s.Tenant(ctx, "acme"); err != nil || got.Tier != "basic" || got.Quota != (bulkhead.Quota{}) {
		t.Errorf("after refused updates: %+v, %v", got, err)
	}
	if err := s.PutSandbox(ctx, Sandbox("ix", "nobody")); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a sandbox of no tenant: got %v, want not_found", err)
	}
}

func testDeleteTenant(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	for id, want := range map[string]bulkhead.Code{"x": bulkhead.CodeNotFound, bulkhead.DefaultTenant: bulkhead.CodeConflict} {
		if err := s.DeleteTenant(ctx, id, true); bulkhead.CodeOf(err) != want {
			t.Errorf("delete %s: got %v, want %s", id, err, want)
		}
	}
	secret, key, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	live := Sandbox("ilive", "acme")
	put(t, s, live)
	if err := s.DeleteTenant(ctx, "acme", false); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("delete one with a live sandbox: got %v, want conflict", err)
	}
	if _, err := s.LookupKey(ctx, store.HashKey(secret)); err != nil {
		t.Errorf("a key after a refused delete: %v", err)
	}
	if err := s.DeleteTenant(ctx, "acme", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tenant(ctx, "acme"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a deleted tenant: got %v, want not_found", err)
	}
	if _, err := s.LookupKey(ctx, store.HashKey(secret)); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("its key: got %v, want not_found", err)
	}
	if k, err := s.Key(ctx, "", key.ID); err != nil || k.RevokedAt.IsZero() {
		t.Errorf("its key is kept as %+v, %v; want it revoked", k, err)
	}
	if err := s.PutSandbox(ctx, Sandbox("ilate", "acme")); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a late sandbox of it: got %v, want not_found", err)
	}
	if err := s.EndSandbox(ctx, live.ID, bulkhead.End{Cause: bulkhead.CauseKilled, At: epoch}); err != nil {
		t.Errorf("end what it left: %v", err)
	}
}

func testTiers(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	for name, want := range map[string]struct {
		multiplier float64
		priority   int
	}{"free": {0.5, 1}, "basic": {1, 2}, "premium": {1.5, 3}, "enterprise": {2, 4}, bulkhead.TierUnlimited: {1, 4}} {
		tier, err := s.Tier(ctx, name)
		if err != nil || tier.Multiplier != want.multiplier || tier.Priority != want.priority {
			t.Errorf("tier %s: %+v, %v", name, tier, err)
		}
		if unlimited := tier.Quota == (bulkhead.Quota{}); unlimited != (name == bulkhead.TierUnlimited) || tier.Validate() != nil {
			t.Errorf("tier %s has the quota %+v (%v)", name, tier.Quota, tier.Validate())
		}
	}
	gold := bulkhead.Tier{Name: "gold", Multiplier: 3, Priority: 9, Quota: bulkhead.Quota{Sandboxes: 7, Sandbox: bulkhead.Limits{CPU: 3}}}
	for range 2 { // made, then changed
		if err := s.PutTier(ctx, gold); err != nil {
			t.Fatal(err)
		}
		got, err := s.Tier(ctx, "gold")
		if diff := cmp.Diff(gold, got); diff != "" || err != nil {
			t.Errorf("tier (-want +got): %v\n%s", err, diff)
		}
		gold.Multiplier, gold.Quota = 0.1, bulkhead.Quota{TTLSeconds: 60}
	}
	if all, err := s.Tiers(ctx); err != nil || len(all) != 6 || all[0].Name != "free" || all[5].Name != "gold" {
		t.Errorf("all: %+v, %v", all, err)
	}
	for name, bad := range map[string]bulkhead.Tier{
		"no name":    {Multiplier: 1, Priority: 1},
		"multiplier": {Name: "x", Multiplier: 11, Priority: 1},
		"priority":   {Name: "x", Multiplier: 1},
		"quota":      {Name: "x", Multiplier: 1, Priority: 1, Quota: bulkhead.Quota{MemoryMB: -1}},
	} {
		if err := s.PutTier(ctx, bad); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	for name, want := range map[string]bulkhead.Code{"basic": bulkhead.CodeConflict, "gold": "", "x": bulkhead.CodeNotFound} {
		if err := s.DeleteTier(ctx, name); bulkhead.CodeOf(err) != want {
			t.Errorf("delete %s: got %v, want %q", name, err, want)
		}
	}
	if _, err := s.Tier(ctx, "gold"); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("a deleted tier: got %v, want not_found", err)
	}
}

func testRotate(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	look := func(secret string) bulkhead.Code {
		_, err := s.LookupKey(ctx, store.HashKey(secret))
		return bulkhead.CodeOf(err)
	}
	first, k, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "acme", Scopes: []string{store.ScopeManage}, RequestsPerSecond: 2.5, CreatesPerSecond: 1})
	if err != nil {
		t.Fatal(err)
	}
	second, rotated, err := s.RotateKey(ctx, "acme", k.ID, time.Hour)
	if err != nil || second == first || rotated.PreviousUntil.Before(time.Now().Add(time.Hour-time.Minute)) {
		t.Fatalf("rotated to %+v, %v", rotated, err)
	}
	if look(first) != "" || look(second) != "" {
		t.Errorf("within the grace: the first is %q, the second %q; want both good", look(first), look(second))
	}
	if _, _, err := s.CreateKey(ctx, store.KeyRequest{Tenant: "acme", Secret: first}); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("take a secret in its grace: got %v, want conflict", err)
	}
	k.Prefix, k.PreviousUntil = rotated.Prefix, rotated.PreviousUntil
	got, err := s.Key(ctx, "acme", k.ID)
	if diff := cmp.Diff(k, got); diff != "" || err != nil {
		t.Errorf("key after a rotation (-want +got): %v\n%s", err, diff)
	}
	rate, name, wrong := 7.5, "other", -1.0
	changed, err := s.ChangeKey(ctx, "acme", k.ID, store.KeyChange{Name: &name, RequestsPerSecond: &rate})
	k.Name, k.RequestsPerSecond = name, rate
	if diff := cmp.Diff(k, changed); diff != "" || err != nil {
		t.Errorf("changed key (-want +got): %v\n%s", err, diff)
	}
	if found, err := s.LookupKey(ctx, store.HashKey(second)); err != nil || found.RequestsPerSecond != rate || found.CreatesPerSecond != 1 {
		t.Errorf("looked up after the change: %+v, %v", found, err)
	}
	for id, want := range map[string]bulkhead.Code{k.ID: bulkhead.CodeInvalid, "key_0": bulkhead.CodeNotFound} {
		if _, err := s.ChangeKey(ctx, "acme", id, store.KeyChange{CreatesPerSecond: &wrong}); bulkhead.CodeOf(err) != want {
			t.Errorf("change %s to a negative rate: got %v, want %s", id, err, want)
		}
	}
	if _, err := s.ChangeKey(ctx, "umbrella", k.ID, store.KeyChange{Name: &name}); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("change another tenant's key: got %v, want not_found", err)
	}
	third, _, err := s.RotateKey(ctx, "", k.ID, 0)
	if err != nil || look(first) == "" || look(second) == "" || look(third) != "" {
		t.Errorf("after a rotation without grace: %v, %q, %q, %q; want only the third good", err, look(first), look(second), look(third))
	}
	for name, c := range map[string]struct {
		tenant, id string
		grace      time.Duration
		want       bulkhead.Code
	}{
		"another tenant's": {"umbrella", k.ID, 0, bulkhead.CodeNotFound},
		"unknown":          {"acme", "key_0", 0, bulkhead.CodeNotFound},
		"past":             {"acme", k.ID, -1, bulkhead.CodeInvalid},
		"too long":         {"acme", k.ID, store.MaxGrace + 1, bulkhead.CodeInvalid},
	} {
		if _, _, err := s.RotateKey(ctx, c.tenant, c.id, c.grace); bulkhead.CodeOf(err) != c.want {
			t.Errorf("rotate %s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := s.Key(ctx, "umbrella", k.ID); bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("another tenant's key: got %v, want not_found", err)
	}
	if err := s.RevokeKey(ctx, "acme", k.ID); err != nil || look(third) == "" {
		t.Errorf("after a revoke: %v, %q", err, look(third))
	}
	if _, err := s.ChangeKey(ctx, "acme", k.ID, store.KeyChange{Name: &name}); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("change a revoked key: got %v, want conflict", err)
	}
	if _, _, err := s.RotateKey(ctx, "acme", k.ID, 0); bulkhead.CodeOf(err) != bulkhead.CodeConflict {
		t.Errorf("rotate a revoked key: got %v, want conflict", err)
	}
}

// Every update of a tenant counts, and whoever reads after it sees it.
func testConcurrentUpdates(t *testing.T, s Store) {
	t.Helper()
	const rounds = 8
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range rounds {
				var mine int
				if _, err := s.UpdateTenant(t.Context(), "acme", func(x *bulkhead.Tenant) error {
					x.Quota.Sandboxes++
					mine = x.Quota.Sandboxes
					return nil
				}); err != nil {
					t.Error(err)
				}
				if got, err := s.Tenant(t.Context(), "acme"); err != nil || got.Quota.Sandboxes < mine {
					t.Errorf("read %d, %v after having written %d", got.Quota.Sandboxes, err, mine)
				}
			}
		})
	}
	wg.Wait()
	if got, err := s.Tenant(t.Context(), "acme"); err != nil || got.Quota.Sandboxes != clients*rounds {
		t.Errorf("%d updates arrived, %v; want %d", got.Quota.Sandboxes, err, clients*rounds)
	}
}

// A tenant that is deleted beside creates keeps no sandbox that the delete did not
// know of: either the create is refused, or the delete is.
func testCreateBesideDelete(t *testing.T, s Store) {
	t.Helper()
	var wg sync.WaitGroup
	var deleted error
	put := make([]error, clients)
	for i := range clients {
		wg.Go(func() { put[i] = s.PutSandbox(t.Context(), Sandbox(fmt.Sprintf("i%d", i), "acme")) })
		if i == clients/2 {
			wg.Go(func() { deleted = s.DeleteTenant(t.Context(), "acme", false) })
		}
	}
	wg.Wait()
	live := len(ids(t, s, bulkhead.Filter{Tenant: "acme"}))
	for _, err := range put {
		if err != nil && (deleted != nil || bulkhead.CodeOf(err) != bulkhead.CodeNotFound) {
			t.Errorf("put: %v, where the delete gave %v", err, deleted)
		}
	}
	if deleted == nil && live > 0 || deleted != nil && (live != clients || !errors.As(deleted, new(*bulkhead.Error))) {
		t.Errorf("the delete gave %v with %d sandboxes", deleted, live)
	}
}

package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/store"
)

// metered is a second of a sandbox: one core, 1 GiB, 1000 bytes out and 10 in.
func metered(tenant, sandbox string, from time.Time) bulkhead.Metered {
	return bulkhead.Metered{
		Tenant: tenant, Sandbox: sandbox, From: from, To: bulkhead.Meter{At: from.Add(time.Second), CPU: time.Minute, Egress: 7000, Ingress: 70},
		CPU: time.Second, Egress: 1000, Ingress: 10, MemoryMiBMillis: 1024 * 1000,
	}
}

// second is what n of them are.
func second(n, sandboxes int64) bulkhead.Usage {
	return bulkhead.Usage{
		Sandboxes: sandboxes, Seconds: float64(n), CPUSeconds: float64(n), GBSeconds: float64(n),
		EgressBytes: 1000 * n, IngressBytes: 10 * n,
	}
}

func usage(t *testing.T, s Store, q store.UsageQuery) []store.UsageRow {
	t.Helper()
	rows, err := s.Usage(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func addUsage(t *testing.T, s Store, m ...bulkhead.Metered) {
	t.Helper()
	if err := s.AddUsage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func testUsage(t *testing.T, s Store) {
	t.Helper()
	day := 24 * time.Hour
	first := metered("acme", "i1", epoch)
	first.First = true
	addUsage(t, s)
	addUsage(t, s, first, metered("acme", "i2", epoch), metered("umbrella", "i3", epoch))
	addUsage(t, s, metered("acme", "i1", epoch.Add(time.Second)))
	addUsage(t, s, metered("acme", "i1", epoch.Add(day)))
	check := func(when string) {
		t.Helper()
		for _, c := range []struct {
			name string
			q    store.UsageQuery
			want []store.UsageRow
		}{
			{"by tenant", store.UsageQuery{From: epoch, To: epoch.Add(day), By: store.ByTenant}, []store.UsageRow{
				{Tenant: "acme", Usage: second(4, 1)}, {Tenant: "umbrella", Usage: second(1, 0)},
			}},
			{"by day", store.UsageQuery{From: epoch, To: epoch.Add(day), By: store.ByDay}, []store.UsageRow{
				{Day: "2026-11-22", Usage: second(4, 1)}, {Day: "2026-11-23", Usage: second(1, 0)},
			}},
			{"one tenant by day", store.UsageQuery{Tenant: "acme", From: epoch, To: epoch, By: store.ByDay}, []store.UsageRow{
				{Day: "2026-11-22", Usage: second(3, 1)},
			}},
			{"no day", store.UsageQuery{From: epoch.Add(-day), To: epoch.Add(-day), By: store.ByTenant}, nil},
		} {
			if diff := cmp.Diff(c.want, usage(t, s, c.q), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", when, c.name, diff)
			}
		}
	}
	check("fresh")
	bySandbox := store.UsageQuery{From: epoch, To: epoch.Add(day), By: store.BySandbox}
	want := []store.UsageRow{
		{Tenant: "acme", Sandbox: "i1", Usage: second(3, 1)},
		{Tenant: "acme", Sandbox: "i2", Usage: second(1, 0)},
		{Tenant: "umbrella", Sandbox: "i3", Usage: second(1, 0)},
	}
	if diff := cmp.Diff(want, usage(t, s, bySandbox), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("by sandbox (-want +got):\n%s", diff)
	}
	bySandbox.Sandbox = "i2"
	if diff := cmp.Diff(want[1:2], usage(t, s, bySandbox)); diff != "" {
		t.Errorf("one sandbox (-want +got):\n%s", diff)
	}
	bySandbox.Sandbox = ""
	for range 2 { // what is folded already stays
		if err := s.FoldUsage(t.Context(), epoch.Add(day)); err != nil {
			t.Fatal(err)
		}
		check("folded")
	}
	want = []store.UsageRow{
		{Tenant: "acme", Usage: second(3, 1)}, {Tenant: "acme", Sandbox: "i1", Usage: second(1, 0)}, {Tenant: "umbrella", Usage: second(1, 0)},
	}
	if diff := cmp.Diff(want, usage(t, s, bySandbox), cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("by sandbox, folded (-want +got):\n%s", diff)
	}
	for name, q := range map[string]store.UsageQuery{
		"by":    {From: epoch, To: epoch, By: "node"},
		"order": {From: epoch, To: epoch.Add(-day), By: store.ByDay},
	} {
		if _, err := s.Usage(t.Context(), q); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
	m, err := s.Meter(t.Context(), "i1")
	if want := (bulkhead.Meter{At: epoch.Add(day + time.Second), CPU: time.Minute, Egress: 7000, Ingress: 70}); m != want || err != nil {
		t.Errorf("last reading: %+v, %v; want %+v", m, err, want)
	}
	late := metered("acme", "i1", epoch.Add(day-time.Second)) // one that was kept back counts, and changes no reading
	late.From, late.To.At, late.To.CPU = epoch.Add(day), epoch.Add(day+time.Millisecond), 0
	addUsage(t, s, late)
	if m, err := s.Meter(t.Context(), "i1"); m.CPU != time.Minute || err != nil {
		t.Errorf("reading after a late one: %+v, %v", m, err)
	}
	if m, err := s.Meter(t.Context(), "inone"); !m.At.IsZero() || err != nil {
		t.Errorf("reading of an unknown sandbox: %+v, %v", m, err)
	}
}

// What was used over several days is on each of them, and is all there.
func testUsageOverDays(t *testing.T, s Store) {
	t.Helper()
	m := metered("acme", "i1", time.Date(2026, 11, 21, 18, 0, 0, 0, time.UTC))
	m.First, m.To.At, m.CPU = true, time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC), 36*time.Hour
	m.Egress, m.MemoryMiBMillis = 1001, 36*3600*1000*1024+1
	addUsage(t, s, m)
	rows := usage(t, s, store.UsageQuery{From: m.From, To: m.To.At, By: store.ByDay})
	var sum bulkhead.Usage
	for i, r := range rows {
		hours := []float64{6, 24, 6}[i]
		if r.Seconds != hours*3600 || r.CPUSeconds < hours*3600-1 || r.CPUSeconds > hours*3600+1 || r.GBSeconds < hours*3600-1 || r.GBSeconds > hours*3600+1 {
			t.Errorf("day %d: %+v, want %v hours", i, r, hours)
		}
		sum.Sandboxes += r.Sandboxes
		sum.CPUSeconds += r.CPUSeconds
		sum.EgressBytes += r.EgressBytes
		sum.IngressBytes += r.IngressBytes
	}
	if len(rows) != 3 || sum.Sandboxes != 1 || sum.CPUSeconds != 36*3600 || sum.EgressBytes != 1001 || sum.IngressBytes != 10 {
		t.Errorf("%d days with the sum %+v", len(rows), sum)
	}
}

// Whatever was acknowledged is in the sums, in memory and on the disk, and nothing
// is twice.
func testConcurrentUsage(t *testing.T, s Store) {
	t.Helper()
	const rounds = 4
	now := time.Now().UTC()
	if now.Add(2*time.Second).Day() != now.Day() { // all of it is to be today's
		now = now.Add(-time.Minute)
	}
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for j := range rounds {
				m := metered("acme", fmt.Sprintf("i%d", i), now.Add(-2*time.Second))
				m.First = j == 0
				if err := s.AddUsage(t.Context(), []bulkhead.Metered{m}); err != nil {
					t.Error(err)
				}
				if u, err := s.UsageToday(t.Context(), "acme"); err != nil || u.CPUSeconds < 1 {
					t.Errorf("today: %+v, %v; want at least one's own", u, err)
				}
			}
		})
	}
	wg.Wait()
	want := second(clients*rounds, clients)
	got, err := s.UsageToday(t.Context(), "acme")
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" || err != nil {
		t.Errorf("today (-want +got): %v\n%s", err, diff)
	}
	rows := usage(t, s, store.UsageQuery{From: now.Add(-2 * time.Second), To: now, By: store.ByTenant})
	if diff := cmp.Diff([]store.UsageRow{{Tenant: "acme", Usage: want}}, rows, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if u, err := s.UsageToday(t.Context(), "umbrella"); u != (bulkhead.Usage{}) || err != nil {
		t.Errorf("another tenant's day: %+v, %v", u, err)
	}
}

func testActs(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	acts := []bulkhead.Act{
		{Tenant: "ops", Key: "key_1", Action: "tenant.create", Target: "acme", TargetTenant: "acme", Outcome: "ok"},
		{Tenant: "acme", Key: "key_2", Action: "key.create", Target: "key_3", TargetTenant: "acme", Outcome: "ok"},
		{Tenant: "umbrella", Key: "key_4", Action: "key.revoke", Target: "key_3", Outcome: "not_found", Source: "10.0.0.1", Request: "r1", Detail: strings.Repeat("é", 2000)},
	}
	for i, a := range acts {
		a.At = epoch.Add(time.Duration(i) * time.Second)
		if err := s.Record(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	list := func(q store.ActQuery) string {
		t.Helper()
		if q.Limit == 0 {
			q.Limit = store.MaxActs
		}
		found, err := s.Acts(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, a := range found {
			out = append(out, a.Action)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		name string
		q    store.ActQuery
		want string
	}{
		{"all", store.ActQuery{}, "key.revoke key.create tenant.create"},
		{"tenant", store.ActQuery{Tenant: "acme"}, "key.create tenant.create"},
		{"action", store.ActQuery{Action: "key.create"}, "key.create"},
		{"key", store.ActQuery{Key: "key_4"}, "key.revoke"},
		{"target", store.ActQuery{Target: "key_3"}, "key.revoke key.create"},
		{"time", store.ActQuery{From: epoch.Add(time.Second), To: epoch.Add(time.Second)}, "key.create"},
		{"limit", store.ActQuery{Limit: 1}, "key.revoke"},
	} {
		if got := list(c.q); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	page, err := s.Acts(ctx, store.ActQuery{Limit: 2})
	if err != nil || len(page) != 2 {
		t.Fatalf("a page: %+v, %v", page, err)
	}
	if got := list(store.ActQuery{Before: page[1].ID}); got != "tenant.create" {
		t.Errorf("the next page: %q", got)
	}
	if a := page[0]; a.Source != "10.0.0.1" || a.Request != "r1" || !a.At.Equal(epoch.Add(2*time.Second)) || !strings.HasPrefix(acts[2].Detail, strings.TrimRight(a.Detail, "\uFFFD")) {
		t.Errorf("kept as %+v", a)
	}
	for _, limit := range []int{0, store.MaxActs + 1} {
		if _, err := s.Acts(ctx, store.ActQuery{Limit: limit}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("limit %d: got %v, want invalid", limit, err)
		}
	}
	if err := s.PruneActs(ctx, epoch.Add(time.Second)); err != nil || list(store.ActQuery{}) != "key.revoke key.create" {
		t.Errorf("pruned to %q, %v", list(store.ActQuery{}), err)
	}
}

// A text that a database cannot hold is refused, or kept without what it cannot
// hold, and harms no write beside it.
func testHostileText(t *testing.T, s Store) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			if i%4 != 0 {
				if err := s.PutSandbox(t.Context(), Sandbox(fmt.Sprintf("i%d", i), "acme")); err != nil {
					t.Errorf("beside hostile texts: %v", err)
				}
				return
			}
			err := s.RevokeKey(t.Context(), "", "key\x00\xff'; DROP TABLE api_keys; --")
			if code := bulkhead.CodeOf(err); code != bulkhead.CodeInvalid && code != bulkhead.CodeNotFound {
				t.Errorf("revoke: %v", err)
			}
			if err := s.Record(t.Context(), bulkhead.Act{Action: "x\x00", Target: "\xff", Detail: "\x00"}); err != nil {
				t.Errorf("record: %v", err)
			}
		})
	}
	wg.Wait()
	if got := len(ids(t, s, bulkhead.Filter{})); got != clients*3/4 {
		t.Errorf("%d sandboxes, want %d", got, clients*3/4)
	}
	if _, err := s.Sandbox(t.Context(), "", "i\x00"); bulkhead.CodeOf(err) != bulkhead.CodeInvalid && bulkhead.CodeOf(err) != bulkhead.CodeNotFound {
		t.Errorf("read: %v", err)
	}
}

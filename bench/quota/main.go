// Command quota measures, on this machine and in one run, what it costs to decide
// who may have how much and to put that in force: a decision in a book with 10,000
// bookings of 1,000 tenants, alone, with claims that wait and with every core
// deciding; then the binding of a box's limits and egress on this host, which takes
// root; then the rows that make a sandbox durable, on SQLite and PostgreSQL. It writes OUT/quota.json in the form of the other suites.
//
//	quota [-out DIR] [-n N]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/host"
	"github.com/bulkheadhq/bulkhead/internal/netslot"
	"github.com/bulkheadhq/bulkhead/internal/pool"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/quota:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	f := flag.NewFlagSet("quota", flag.ContinueOnError)
	out := f.String("out", "bench/out", "folder for results")
	n := f.Int("n", 50_000, "decisions of each figure, 1000 to 10000000")
	binds := f.Int("binds", 300, "bindings of each figure, 10 to 100000")
	rows := f.Int("rows", 1000, "rows of each figure of the ledger, 16 to 1000000")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *n < 1000 || *n > 10_000_000 || *binds < 10 || *binds > 100_000 {
		return fmt.Errorf("-n is %d and -binds is %d; they must be between 1000 and 10000000 and between 10 and 100000", *n, *binds)
	}
	if *rows < crowdOfWriters || *rows > 1_000_000 {
		return fmt.Errorf("-rows is %d; it must be between %d and 1000000", *rows, crowdOfWriters)
	}
	r := results.New("quota", stdout)
	r.Printf("\n== quota (%d cores, %d decisions a figure)\n", runtime.NumCPU(), *n)
	if err := decisions(r, *n); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		r.Printf("   not root: what binding limits takes is left out\n")
	} else if err := bindings(ctx, r, *binds); err != nil {
		return err
	}
	if err := ledger(ctx, r, *rows); err != nil {
		return err
	}
	return r.Write(*out) //nolint:wrapcheck // it names the file
}

// row is the percentiles of the times that something took, in unit.
func row(name string, took []time.Duration, unit time.Duration, symbol string, failures int) results.Row {
	slices.Sort(took)
	at := func(p int) float64 { return float64(took[min(len(took)-1, len(took)*p/100)]) / float64(unit) }
	return results.Row{Name: name, P50: at(50), P95: at(95), P99: at(99), Unit: symbol, N: len(took), Failures: failures}
}

const (
	bookings = 10_000
	tenants  = 1000
)

// crowd is a request of one of the tenants, each of which may have 74 sandboxes.
func crowd(tenant int) quota.Request {
	return quota.Request{
		Tenant: fmt.Sprintf("tenant-%d", tenant%tenants), Defaults: bulkhead.DefaultLimits(), TTL: time.Minute,
		Tier: bulkhead.Tier{Name: "free", Multiplier: 0.5, Priority: 1, Quota: bulkhead.Quota{
			Sandboxes: bookings/tenants + 64, CPU: 1000, MemoryMB: 1 << 30, DiskMB: 1 << 40,
			CreatesPerSecond: 1e6, CPUSecondsPerDay: 1e9, GBHoursPerDay: 1e9,
		}},
	}
}

// crowded returns a book with all bookings, and waiting claims beyond them that the
// tenants' own limits, or the host, hold up.
func crowded(waiting int, byHost bool) (*quota.Book, error) {
	now := time.Now()
	b := quota.New(quota.Config{MaxWaiting: 10_000, Share: 0.15, DiskShare: 0.05})
	const none = quota.Unlimited
	most := quota.Amounts{none, none, none, none}
	if byHost {
		// Room for the bookings and those that are measured, and for nothing larger.
		most[quota.Memory] = 76 * (bookings + 4)
	}
	b.See(now, quota.Host{Most: most, Free: quota.Amounts{none, none, none, none}})
	for i := range bookings {
		if _, err := b.Offer(now, crowd(i)); err != nil {
			return nil, fmt.Errorf("fill the book: %w", err)
		}
	}
	for i := range waiting {
		r := crowd(i)
		r.WaitOwn, r.WaitHost = true, true
		if byHost {
			r.Asked.MemoryMB = 64 << 10
		} else {
			r.Tier.Quota.Sandboxes = bookings / tenants
		}
		if _, err := b.Offer(now, r); err != nil {
			return nil, fmt.Errorf("fill the queue: %w", err)
		}
	}
	return b, nil
}

// decide measures n calls of op, each with a request of its own, by so many at once,
// and then what op returns, unless that is nil.
func decide(n, at int, op func(now time.Time, req quota.Request) (undo func(), ok bool)) (took, undid []time.Duration, failures int) {
	var mu sync.Mutex
	var deciders sync.WaitGroup
	for d := range at {
		deciders.Go(func() {
			mine, back, failed := make([]time.Duration, 0, n/at), make([]time.Duration, 0, n/at), 0
			for i := range n / at {
				req := crowd(500 + (i+d*37)%(tenants-500))
				began := time.Now()
				undo, ok := op(began, req)
				mine = append(mine, time.Since(began))
				if !ok {
					failed++
				}
				if undo != nil {
					began = time.Now()
					undo()
					back = append(back, time.Since(began))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took, undid, failures = append(took, mine...), append(undid, back...), failures+failed
		})
	}
	deciders.Wait()
	return took, undid, failures
}

// decisions measures reservations and their returns, and beside them what every
// decision under one lock costs at least: a mutex that is locked, a number that is
// counted up, by the same goroutines.
func decisions(r *results.Report, n int) error {
	cores := runtime.NumCPU()
	for _, at := range []int{1, cores, 8 * cores} {
		var mu sync.Mutex
		counted := 0
		took, _, _ := decide(n, at, func(time.Time, quota.Request) (func(), bool) {
			mu.Lock()
			counted++
			mu.Unlock()
			return nil, true
		})
		r.Add(row("   a mutex and an increment, "+count(at), took, time.Microsecond, "µs", n/at*at-counted), nil)
	}
	for _, c := range []struct {
		name    string
		waiting int
		byHost  bool
		at      int // at once
	}{
		{"decision, 10,000 bookings of 1,000 tenants", 0, false, 1},
		{"decision, every core at it", 0, false, cores},
		{"decision, " + count(8*cores), 0, false, 8 * cores},
		{"decision, 500 claims wait for their tenants", 500, false, 1},
		{"decision or refusal, 200 claims wait for the host", 200, true, 1},
		{"decision or refusal, 200 claims wait, every core at it", 200, true, cores},
	} {
		b, err := crowded(c.waiting, c.byHost)
		if err != nil {
			return err
		}
		took, returns, failures := decide(n, c.at, func(now time.Time, req quota.Request) (func(), bool) {
			k, err := b.Offer(now, req)
			if err != nil {
				return nil, c.byHost // there what comes free is kept for who waits
			}
			return func() { k.Return(time.Now()) }, true
		})
		x := row(c.name, took, time.Microsecond, "µs", failures)
		x.Peer, x.Ratio = "goal, p99 50 µs", 50/x.P99
		r.Add(x, nil)
		if len(returns) > 0 {
			r.Add(row("   its return", returns, time.Microsecond, "µs", 0), nil)
		}
	}
	return nil
}

// bindings measures how long limits and egress take to be in force for a box that
// waits, as they must be when it is leased.
func bindings(ctx context.Context, r *results.Report, n int) (err error) {
	dir, err := os.MkdirTemp("", "bulkhead-bench-quota-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	layout, err := cgroup.Detect()
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	groups, err := cgroup.New(cgroup.Config{Layout: layout, Root: "/bulkhead-bench-quota"})
	if err != nil {
		return fmt.Errorf("open cgroups: %w", err)
	}
	defer func() { err = errors.Join(err, groups.Close()) }()
	slots, err := netslot.New(netslot.Config{Dir: filepath.Join(dir, "netns"), Name: "bhquota", Prefix: netip.MustParsePrefix("10.215.0.0/22")})
	if err != nil {
		return fmt.Errorf("open network slots: %w", err)
	}
	defer func() { err = errors.Join(err, slots.Close()) }()
	parts := &host.Parts{Slots: slots, Groups: groups, Overhead: cgroup.Extra{PidsOverhead: 512, MemoryOverheadMB: 64}}
	part, err := parts.Acquire(ctx, bulkhead.DefaultLimits())
	if err != nil {
		return fmt.Errorf("make a part: %w", err)
	}
	defer func() { err = errors.Join(err, part.Release(context.WithoutCancel(ctx))) }()
	for _, c := range []struct {
		name  string
		limit func(i int, l *bulkhead.Limits)
	}{
		{"bind: CPU, memory and processes", func(i int, l *bulkhead.Limits) {
			l.CPU, l.MemoryMB, l.Pids = 0.5+float64(i%2), 256+256*int64(i%3), 64+int64(i%5)
		}},
		{"bind: bandwidth, too", func(i int, l *bulkhead.Limits) {
			l.CPU, l.BandwidthKbps = 0.5+float64(i%2), 10_000+1000*int64(i%3)
		}},
	} {
		took, failures := make([]time.Duration, 0, n), 0
		var first error
		for i := range n {
			l := bulkhead.DefaultLimits()
			c.limit(i, &l)
			began := time.Now()
			err := part.Bind(ctx, l, bulkhead.Egress{Internet: true})
			took = append(took, time.Since(began))
			if err != nil {
				failures++
				first = err
			}
		}
		r.Add(goal(row(c.name, took, time.Millisecond, "ms", failures)), first)
	}
	return egress(ctx, r, parts, part, n)
}

// goal compares with the millisecond that binding may take.
func goal(x results.Row) results.Row {
	x.Peer, x.Ratio = "goal, p99 1 ms", 1/x.P99
	return x
}

// crowdOfLists is how many other boxes have lists of their own in the last figures.
const crowdOfLists = 60

// egress measures what a lease waits for when it brings a policy of its own, what a
// box that runs waits for, and the transaction of the kernel's alone.
func egress(ctx context.Context, r *results.Report, parts *host.Parts, part pool.Part, n int) (err error) {
	lists, err := bulkhead.Network{
		AllowOut: []string{"1.1.1.1", "9.9.9.0/24", "*.example.com"}, DenyOut: []string{bulkhead.AllTraffic},
	}.Egress(true)
	if err != nil {
		return fmt.Errorf("make a policy: %w", err)
	}
	usual, own := bulkhead.DefaultLimits(), bulkhead.DefaultLimits()
	own.Connections = 100
	measure := func(name string, n int, p pool.Part, l bulkhead.Limits, from, to bulkhead.Egress) {
		took, failures := make([]time.Duration, 0, n), 0
		var first error
		for range n {
			err := p.Bind(ctx, usual, from)
			began := time.Now()
			err = errors.Join(err, p.Bind(ctx, l, to))
			took = append(took, time.Since(began))
			if err != nil {
				failures++
				first = err
			}
		}
		r.Add(goal(row(name, took, time.Millisecond, "ms", failures)), first)
	}
	open, closed := bulkhead.Egress{Internet: true}, bulkhead.Egress{}
	measure("bind: egress, opened", n, part, usual, closed, open)
	measure("bind: egress, closed", n, part, usual, open, closed)
	// A lease: a slot to which nothing was open before.
	fresh := func(name string, l bulkhead.Limits, e bulkhead.Egress) error {
		took, failures := make([]time.Duration, 0, n), 0
		var first error
		for range n {
			p, err := parts.Acquire(ctx, usual)
			if err != nil {
				return fmt.Errorf("make a part: %w", err)
			}
			began := time.Now()
			err = p.Bind(ctx, l, e)
			took = append(took, time.Since(began))
			if err = errors.Join(err, p.Release(ctx)); err != nil {
				failures++
				first = err
			}
		}
		r.Add(goal(row(name, took, time.Millisecond, "ms", failures)), first)
		return nil
	}
	if err := fresh("bind: egress, a lease with connections of its own", own, open); err != nil {
		return err
	}
	if err := fresh("bind: egress, a lease with lists and a domain", usual, lists); err != nil {
		return err
	}
	var others []pool.Part
	defer func() {
		for _, p := range others {
			err = errors.Join(err, p.Release(context.WithoutCancel(ctx)))
		}
	}()
	for range crowdOfLists {
		p, err := parts.Acquire(ctx, usual)
		if err != nil {
			return fmt.Errorf("make a part: %w", err)
		}
		others = append(others, p)
		if err := p.Bind(ctx, usual, lists); err != nil {
			return fmt.Errorf("bind a part: %w", err)
		}
	}
	if err := fresh(fmt.Sprintf("bind: egress, the same beside %d others", crowdOfLists), usual, lists); err != nil {
		return err
	}
	measure("bind: egress, other connections while it runs", min(n, 50), part, own, open, open)
	measure("bind: egress, from one domain to another while it runs", min(n, 50), part, usual,
		bulkhead.Egress{Domains: []string{"example.org"}}, bulkhead.Egress{Domains: []string{"example.com"}})
	return bare(r, n)
}

// bare measures the transaction that opening and closing is, without anything of ours.
func bare(r *results.Report, n int) (err error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := c.AddTable(&nftables.Table{Name: "bhquotabare", Family: nftables.TableFamilyINet})
	set := &nftables.Set{Table: table, Name: "open", KeyType: nftables.TypeIPAddr}
	err = errors.Join(c.AddSet(set, nil), c.Flush())
	defer func() {
		c.DelTable(table)
		err = errors.Join(err, c.Flush(), c.CloseLasting())
	}()
	if err != nil {
		return fmt.Errorf("make a table: %w", err)
	}
	elem := []nftables.SetElement{{Key: []byte{10, 215, 0, 2}}}
	took, failures := make([]time.Duration, 0, n), 0
	var first error
	for i := range n {
		op := c.SetAddElements
		if i%2 == 1 {
			op = c.SetDeleteElements
		}
		began := time.Now()
		err := errors.Join(op(set, elem), c.Flush())
		took = append(took, time.Since(began))
		if err != nil {
			failures++
			first = err
		}
	}
	r.Add(row("   a transaction with one element alone", took, time.Millisecond, "ms", failures), first)
	return nil
}

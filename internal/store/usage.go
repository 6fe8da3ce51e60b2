package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// What usage is summed up by. The set is closed.
const (
	BySandbox = "sandbox"
	ByTenant  = "tenant"
	ByDay     = "day"
)

// MaxUsageRows is how many rows one query of usage returns at most.
const MaxUsageRows = 10_000

const (
	// aDay is a UTC day: usage is kept by day.
	aDay = 24 * time.Hour
	// usageRows bounds how many rows one statement writes.
	usageRows = 100

	usageColumns = `day, tenant, sandbox, sandboxes, wall_ns, cpu_ns, memory_mib_ms, egress_bytes,
		ingress_bytes, meter_at, meter_cpu_ns, meter_egress, meter_ingress`
	usageAdd = ` ON CONFLICT (day, tenant, sandbox) DO UPDATE SET
		sandboxes = usage.sandboxes + excluded.sandboxes, wall_ns = usage.wall_ns + excluded.wall_ns,
		cpu_ns = usage.cpu_ns + excluded.cpu_ns, memory_mib_ms = usage.memory_mib_ms + excluded.memory_mib_ms,
		egress_bytes = usage.egress_bytes + excluded.egress_bytes, ingress_bytes = usage.ingress_bytes + excluded.ingress_bytes,
		meter_at = CASE WHEN excluded.meter_at > usage.meter_at THEN excluded.meter_at ELSE usage.meter_at END,
		meter_cpu_ns = CASE WHEN excluded.meter_at > usage.meter_at THEN excluded.meter_cpu_ns ELSE usage.meter_cpu_ns END,
		meter_egress = CASE WHEN excluded.meter_at > usage.meter_at THEN excluded.meter_egress ELSE usage.meter_egress END,
		meter_ingress = CASE WHEN excluded.meter_at > usage.meter_at THEN excluded.meter_ingress ELSE usage.meter_ingress END`
)

// usageRow is one row's counts.
type usageRow struct {
	day             int64
	tenant, sandbox string
	sandboxes       int64
	wall, cpu       time.Duration
	memory          int64 // MiB·ms
	egress, ingress int64
	meter           bulkhead.Meter
}

// usage is the row as others see it.
func (r usageRow) usage() bulkhead.Usage {
	return bulkhead.Usage{
		Sandboxes: r.sandboxes, Seconds: r.wall.Seconds(), CPUSeconds: r.cpu.Seconds(),
		GBSeconds: float64(r.memory) / 1024 / 1000, EgressBytes: r.egress, IngressBytes: r.ingress,
	}
}

// dayOf returns the UTC day of t, counted from 1970-01-01.
func dayOf(t time.Time) int64 { return t.Unix() / int64(aDay/time.Second) }

func startOf(day int64) time.Time { return time.Unix(day*int64(aDay/time.Second), 0).UTC() }

// split returns a row for each UTC day that m touches. What was used is spread
// over them evenly in time; the last one gets the reading, and what rounding left.
func split(m bulkhead.Metered) []usageRow {
	first, last := dayOf(m.From), dayOf(m.To.At)
	row := usageRow{day: first, tenant: m.Tenant, sandbox: m.Sandbox}
	rest := row
	rest.wall, rest.cpu, rest.memory, rest.egress, rest.ingress = m.To.At.Sub(m.From), m.CPU, m.MemoryMiBMillis, m.Egress, m.Ingress
	var out []usageRow
	if total := rest.wall; first < last {
		whole := rest
		for day := first; day < last; day++ {
			r := row
			r.day = day
			from := m.From
			if day > first {
				from = startOf(day)
			}
			part := float64(startOf(day+1).Sub(from)) / float64(total)
			r.wall = startOf(day + 1).Sub(from)
			r.cpu = time.Duration(float64(whole.cpu) * part)
			r.memory, r.egress, r.ingress = int64(float64(whole.memory)*part), int64(float64(whole.egress)*part), int64(float64(whole.ingress)*part)
			rest.wall, rest.cpu, rest.memory = rest.wall-r.wall, rest.cpu-r.cpu, rest.memory-r.memory
			rest.egress, rest.ingress = rest.egress-r.egress, rest.ingress-r.ingress
			out = append(out, r)
		}
	}
	rest.day, rest.meter = max(first, last), m.To
	out = append(out, rest)
	if m.First {
		out[0].sandboxes = 1
	}
	return out
}

// AddUsage records what was metered, all of it or, with an error, nothing. Each
// sandbox may be in it once.
func (s *Store) AddUsage(ctx context.Context, metered []bulkhead.Metered) error {
	var rows []usageRow
	for _, m := range metered {
		rows = append(rows, split(m)...)
	}
	if len(rows) == 0 {
		return nil
	}
	s.today.commit.RLock()
	defer s.today.commit.RUnlock()
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for rest := rows; len(rest) > 0; {
			n := min(len(rest), usageRows)
			text, args := insertUsage(rest[:n])
			if _, err := tx.ExecContext(ctx, text, args...); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add usage: %w", err)
	}
	s.today.add(rows)
	return nil
}

func insertUsage(rows []usageRow) (string, []any) {
	var values strings.Builder
	args := make([]any, 0, 13*len(rows))
	for i, r := range rows {
		if i > 0 {
			values.WriteString(", ")
		}
		for j, v := range []any{
			r.day, r.tenant, r.sandbox, r.sandboxes, int64(r.wall), int64(r.cpu), r.memory, r.egress, r.ingress,
			nanos(r.meter.At), int64(r.meter.CPU), r.meter.Egress, r.meter.Ingress,
		} {
			args = append(args, v)
			sep := ", $"
			if j == 0 {
				sep = "($"
			}
			values.WriteString(sep + strconv.Itoa(len(args)))
		}
		values.WriteByte(')')
	}
	return `INSERT INTO usage (` + usageColumns + `) VALUES ` + values.String() + usageAdd, args
}

// Meter returns the last reading that was recorded of a sandbox, with a zero At if
// there is none.
func (s *Store) Meter(ctx context.Context, sandbox string) (bulkhead.Meter, error) {
	rows, err := query(ctx, s.read, func(row scanner) (bulkhead.Meter, error) {
		var m bulkhead.Meter
		var at int64
		err := row.Scan(&at, &m.CPU, &m.Egress, &m.Ingress)
		m.At = fromNanos(at)
		return m, err
	}, `SELECT meter_at, meter_cpu_ns, meter_egress, meter_ingress FROM usage
		WHERE sandbox = $1 AND sandbox <> '' ORDER BY day DESC LIMIT 1`, sandbox)
	if err != nil || len(rows) == 0 {
		return bulkhead.Meter{}, err
	}
	return rows[0], nil
}

// UsageQuery selects usage.
type UsageQuery struct {
	// Tenant and Sandbox, when set, select only what is theirs.
	Tenant, Sandbox string
	// From and To are the first and the last UTC day; the time of day is cut off.
	From, To time.Time
	// By is [BySandbox], [ByTenant] or [ByDay].
	By string
}

// UsageRow is a sum of usage.
type UsageRow struct {
	// Day is set by day, as 2006-01-02; Tenant by tenant and by sandbox; Sandbox by
	// sandbox. A row by sandbox without one is the sum over those of the tenant
	// that are not remembered any more.
	Day     string `json:"day,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`

	bulkhead.Usage
}

// Usage returns the sums that q asks for, without their cost, in the order of what
// they are by. Code: invalid, also when there are more than [MaxUsageRows].
func (s *Store) Usage(ctx context.Context, q UsageQuery) ([]UsageRow, error) {
	keys := map[string]string{BySandbox: "tenant, sandbox", ByTenant: "tenant", ByDay: "day"}[q.By]
	switch {
	case keys == "":
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "by is %q; it must be %q, %q or %q", q.By, BySandbox, ByTenant, ByDay)
	case dayOf(q.To) < dayOf(q.From):
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "to is %s, which is before from, %s", q.To.Format(time.DateOnly), q.From.Format(time.DateOnly))
	}
	rows, err := query(ctx, s.read, func(row scanner) (UsageRow, error) {
		var r usageRow
		into := map[string][]any{BySandbox: {&r.tenant, &r.sandbox}, ByTenant: {&r.tenant}, ByDay: {&r.day}}[q.By]
		err := row.Scan(append(into, &r.sandboxes, &r.wall, &r.cpu, &r.memory, &r.egress, &r.ingress)...)
		out := UsageRow{Tenant: r.tenant, Sandbox: r.sandbox, Usage: r.usage()}
		if q.By == ByDay {
			out.Day = startOf(r.day).Format(time.DateOnly)
		}
		return out, err
	}, `SELECT `+keys+`, `+usageSums+` FROM usage
		WHERE day >= $1 AND day <= $2 AND ($3 = '' OR tenant = $3) AND ($4 = '' OR sandbox = $4)
		GROUP BY `+keys+` ORDER BY `+keys+` LIMIT $5`,
		dayOf(q.From), dayOf(q.To), q.Tenant, q.Sandbox, MaxUsageRows+1)
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	if len(rows) > MaxUsageRows {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid,
			"from and to select more than %d rows; choose fewer days, or one tenant", MaxUsageRows)
	}
	return rows, nil
}

// usageSums are the sums over rows of usage, in the order of a usageRow.
const usageSums = `CAST(COALESCE(SUM(sandboxes), 0) AS BIGINT), CAST(COALESCE(SUM(wall_ns), 0) AS BIGINT),
	CAST(COALESCE(SUM(cpu_ns), 0) AS BIGINT), CAST(COALESCE(SUM(memory_mib_ms), 0) AS BIGINT),
	CAST(COALESCE(SUM(egress_bytes), 0) AS BIGINT), CAST(COALESCE(SUM(ingress_bytes), 0) AS BIGINT)`

// FoldUsage turns the rows of single sandboxes of the days before the given time
// into one for each tenant and day. The sums stay what they are.
func (s *Store) FoldUsage(ctx context.Context, before time.Time) error {
	day := dayOf(before)
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO usage (`+usageColumns+`)
			SELECT day, tenant, '', `+usageSums+`, 0, 0, 0, 0 FROM usage
			WHERE sandbox <> '' AND day < $1 GROUP BY day, tenant`+usageAdd, day); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM usage WHERE sandbox <> '' AND day < $1`, day)
		return err
	})
	if err != nil {
		return fmt.Errorf("fold usage: %w", err)
	}
	return nil
}

// today keeps what tenants used on the current UTC day.
type today struct {
	commit sync.RWMutex // held for writing to read sums that no write is under way to

	mu   sync.Mutex
	day  int64
	sums map[string]usageRow
}

// get returns what is kept of a tenant on a day.
func (t *today) get(tenant string, day int64) (usageRow, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.day != day {
		return usageRow{}, false
	}
	r, ok := t.sums[tenant]
	return r, ok
}

// put keeps the sum of a tenant on a day.
func (t *today) put(tenant string, day int64, r usageRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.day != day {
		t.day, t.sums = day, map[string]usageRow{}
	}
	t.sums[tenant] = r
}

// add adds rows that are durable to the sums that are kept.
func (t *today) add(rows []usageRow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range rows {
		sum, ok := t.sums[r.tenant]
		if !ok || r.day != t.day {
			continue
		}
		sum.sandboxes += r.sandboxes
		sum.wall += r.wall
		sum.cpu += r.cpu
		sum.memory += r.memory
		sum.egress += r.egress
		sum.ingress += r.ingress
		t.sums[r.tenant] = sum
	}
}

// UsageToday returns what a tenant used on the current UTC day, as far as it was
// measured, without its cost. It is read from memory but for the first time on a
// day.
func (s *Store) UsageToday(ctx context.Context, tenant string) (bulkhead.Usage, error) {
	day := dayOf(time.Now())
	if r, ok := s.today.get(tenant, day); ok {
		return r.usage(), nil
	}
	s.today.commit.Lock()
	defer s.today.commit.Unlock()
	var r usageRow
	err := s.read.QueryRowContext(ctx, `SELECT `+usageSums+` FROM usage WHERE tenant = $1 AND day = $2`, tenant, day).
		Scan(&r.sandboxes, &r.wall, &r.cpu, &r.memory, &r.egress, &r.ingress)
	if err != nil {
		return bulkhead.Usage{}, fmt.Errorf("read usage of today: %w", fault(err))
	}
	s.today.put(tenant, day, r)
	return r.usage(), nil
}

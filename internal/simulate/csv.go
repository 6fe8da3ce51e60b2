package simulate

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Columns by which a CSV file is read; case does not matter.
var (
	timeColumns     = []string{"timestamp", "time", "at", "arrival"}
	templateColumns = []string{"template", "app", "function", "name"}
	lifeColumns     = []string{"life", "lifetime", "duration"}
)

// ReadCSV reads a trace. The first row names the columns; of these it uses
//
//   - timestamp (or time, at, arrival), required: an RFC 3339 time, a
//     "2006-01-02 15:04:05.999" in UTC, or seconds, which from 1e9 on count from
//     1970 and below from a Monday's midnight;
//   - template (or app, function, name): "default" when there is no such column;
//   - life (or lifetime, duration): seconds for which the box is leased, else
//     the given life.
//
// Rows may come in any order. The error is a *bulkhead.Error with CodeInvalid
// that names the row and the column, or what r returned.
func ReadCSV(r io.Reader, name string, life time.Duration) (*Trace, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	header, err := in.Read()
	if err != nil {
		return nil, badRow(1, "read the column names", err)
	}
	c := columns{at: find(header, timeColumns), template: find(header, templateColumns), life: find(header, lifeColumns)}
	if c.at < 0 {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "row 1 has no column for the time; it must be called %s", strings.Join(timeColumns, ", "))
	}
	t := &Trace{Name: name}
	ids := map[string]int32{}
	var first, last time.Time
	var times []time.Time
	for row := 2; ; row++ {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badRow(row, "read", err)
		}
		at, a, err := c.parse(record, t, ids, life)
		if err != nil {
			return nil, badRow(row, "read", err)
		}
		if len(t.Arrivals) == MaxArrivals {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "row %d is one too many; a trace holds %d claims", row, MaxArrivals)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
		times = append(times, at)
		t.Arrivals = append(t.Arrivals, a)
	}
	if len(times) == 0 {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the trace has no claims")
	}
	if span := last.Sub(first); span > MaxSpan {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "the trace spans %v; at most %v are allowed", span, MaxSpan)
	}
	t.Start, t.Span = first, last.Sub(first)
	for i, at := range times {
		t.Arrivals[i].At = at.Sub(first)
	}
	t.sort()
	return t, nil
}

func badRow(row int, doing string, err error) error {
	if e, ok := errors.AsType[*bulkhead.Error](err); ok {
		return &bulkhead.Error{Code: e.Code, Msg: fmt.Sprintf("row %d: %s", row, e.Msg)}
	}
	var p *csv.ParseError
	if errors.As(err, &p) || errors.Is(err, io.EOF) {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: fmt.Sprintf("row %d is not CSV", row), Err: err}
	}
	return fmt.Errorf("%s row %d: %w", doing, row, err)
}

func find(header, names []string) int {
	return slices.IndexFunc(header, func(h string) bool {
		return slices.Contains(names, strings.ToLower(strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))))
	})
}

// columns are the positions of what is read, -1 for what is not there.
type columns struct{ at, template, life int }

func (c columns) parse(record []string, t *Trace, ids map[string]int32, life time.Duration) (time.Time, Arrival, error) {
	at, err := parseTime(strings.TrimSpace(record[c.at]))
	if err != nil {
		return at, Arrival{}, err
	}
	name := "default"
	if c.template >= 0 {
		name = record[c.template]
	}
	id, ok := ids[name]
	if !ok {
		if len(ids) == MaxTemplates {
			return at, Arrival{}, bulkhead.Errorf(bulkhead.CodeInvalid, "template %.40q is one too many; a trace holds %d", name, MaxTemplates)
		}
		name = strings.Clone(name)
		id = int32(len(ids)) //nolint:gosec // below MaxTemplates
		ids[name] = id
		t.Templates = append(t.Templates, name)
	}
	a := Arrival{Template: id, Life: float32(life.Seconds())}
	if c.life >= 0 {
		v, err := strconv.ParseFloat(strings.TrimSpace(record[c.life]), 32)
		if err != nil || !(v >= 0 && v <= MaxSpan.Seconds()) {
			return at, Arrival{}, bulkhead.Errorf(bulkhead.CodeInvalid, "life is %.40q; it must be seconds from 0 to %.0f", record[c.life], MaxSpan.Seconds())
		}
		a.Life = float32(v)
	}
	return at, a, nil
}

// monday is where seconds are counted from that are not Unix times.
var monday = time.Date(2025, 1, 6, 0, 0, 0, 0, time.UTC)

func parseTime(s string) (time.Time, error) {
	if v, err := strconv.ParseFloat(s, 64); err == nil {
		if !(v >= 0 && v < 1e10) {
			return time.Time{}, bulkhead.Errorf(bulkhead.CodeInvalid, "time is %.40q; seconds must be from 0 to 1e10", s)
		}
		whole, part := math.Modf(v)
		if v >= 1e9 {
			return time.Unix(int64(whole), int64(part*1e9)).UTC(), nil
		}
		return monday.Add(time.Duration(whole)*time.Second + time.Duration(part*1e9)), nil
	}
	for _, layout := range []string{time.DateTime, time.RFC3339} {
		if at, err := time.Parse(layout, s); err == nil && at.Year() >= 1970 && at.Year() < 2200 {
			return at.UTC(), nil
		}
	}
	return time.Time{}, bulkhead.Errorf(bulkhead.CodeInvalid, "time is %.40q; it must be RFC 3339, \"2006-01-02 15:04:05.999\" or seconds, from 1970 to 2199", s)
}

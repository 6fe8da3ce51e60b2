package simulate

import (
	"compress/gzip"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bulkheadhq/bulkhead"
)

func readGzip(t testing.TB, r io.Reader) *Trace {
	t.Helper()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := ReadCSV(z, "azure", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestReadCSV(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       Trace
	}{
		{
			name: "seconds, out of order, template and life",
			text: "time,app,duration\n2.5,b,7\n1,a,0.5\n",
			want: Trace{
				Start: monday.Add(time.Second), Span: 1500 * time.Millisecond, Templates: []string{"b", "a"},
				Arrivals: []Arrival{{0, 1, 0.5}, {1500 * time.Millisecond, 0, 7}},
			},
		},
		{
			name: "date and time, other columns",
			text: "\ufeffTIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,4808\n2023-11-16 18:17:04.0319600,3180\n",
			want: Trace{
				Start: time.Date(2023, 11, 16, 18, 17, 3, 979960000, time.UTC), Span: 52 * time.Millisecond, Templates: []string{"default"},
				Arrivals: []Arrival{{0, 0, 60}, {52 * time.Millisecond, 0, 60}},
			},
		},
		{
			name: "RFC 3339 and Unix time",
			text: "at\n2024-01-01T02:00:00+02:00\n1704067201\n",
			want: Trace{
				Start: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), Span: time.Second, Templates: []string{"default"},
				Arrivals: []Arrival{{0, 0, 60}, {time.Second, 0, 60}},
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ReadCSV(strings.NewReader(tc.text), "", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestBadCSVNamesRowAndColumn(t *testing.T) {
	many := "time,template\n" + strings.Repeat("1,x\n", 3)
	for i := range MaxTemplates {
		many += fmt.Sprintf("1,t%d\n", i)
	}
	for _, tc := range []struct{ text, want string }{
		{"", "row 1 is not CSV"},
		{"a,b\n1,2\n", "row 1 has no column for the time"},
		{"time\n", "no claims"},
		{"time\nyesterday\n", `row 2: time is "yesterday"`},
		{"time\n-1\n", `row 2: time is "-1"`},
		{"time\nNaN\n", `row 2: time is "NaN"`},
		{"time\n0\n0,1\n", "row 3 is not CSV"},
		{"time\n\"\n", "row 2 is not CSV"},
		{"time,life\n0,-1\n", `row 2: life is "-1"`},
		{"time\n0\n1e9\n", "the trace spans"},
		{"time\n1969-01-01 00:00:00\n", "row 2: time is"},
		{many, fmt.Sprintf("template \"t%d\" is one too many", MaxTemplates-1)},
	} {
		_, err := ReadCSV(strings.NewReader(tc.text), "x", time.Minute)
		if bulkhead.CodeOf(err) != bulkhead.CodeInvalid || !strings.Contains(bulkhead.Message(err), tc.want) {
			t.Errorf("%.40q: %v; want it to say %q", tc.text, err, tc.want)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadCSV(io.MultiReader(strings.NewReader("time\n1\n"), failing{broken}), "x", 0); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v; want its error", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzReadCSV(f *testing.F) {
	f.Add("timestamp,template,life\n2023-11-16 18:17:03.97,a,3\n12.5,b,0\n")
	f.Add("at\n1e9\n1000000001\n")
	f.Fuzz(func(t *testing.T, text string) {
		tr, err := ReadCSV(strings.NewReader(text), "fuzz", time.Minute)
		if err != nil {
			return
		}
		if len(tr.Arrivals) == 0 || len(tr.Templates) == 0 || tr.Span < 0 || tr.Span > MaxSpan {
			t.Fatalf("%d claims, %d templates, %v", len(tr.Arrivals), len(tr.Templates), tr.Span)
		}
		last := time.Duration(0)
		for _, a := range tr.Arrivals {
			if a.At < last || a.At > tr.Span || int(a.Template) >= len(tr.Templates) || !(a.Life >= 0) {
				t.Fatalf("claim %+v after %v of %v", a, last, tr.Span)
			}
			last = a.At
		}
		if tr.Span < 24*time.Hour && len(tr.Templates) < 10 {
			r := Run(tr, DefaultParams(), "fixed", fixed(1, 1))
			checkBooks(t, tr, DefaultParams(), r)
		}
	})
}

func TestParseShape(t *testing.T) {
	for text, want := range map[string]Shape{
		"":                            DefaultShape(),
		"default":                     DefaultShape(),
		"seed=7":                      {7, 40, 28, 1_000_000},
		"days=0.5, requests=10":       {1, 40, 0.5, 10},
		DefaultShape().String():       DefaultShape(),
		"templates=1000,requests=1e6": {1, 1000, 28, 1_000_000},
	} {
		if got, err := ParseShape(text); err != nil || got != want {
			t.Errorf("ParseShape(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"seed", "seed=x", "seed=-1", "seed=1.5", "templates=0", "templates=1001", "days=0", "days=1e9", "days=NaN", "requests=0", "requests=1e9", "color=1"} {
		if _, err := ParseShape(text); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("ParseShape(%q) = %v; want it invalid", text, err)
		}
	}
}

// TestGeneratedShape checks the published shape on a large sample.
func TestGeneratedShape(t *testing.T) {
	tr := Generate(Shape{Seed: 1, Templates: 400, Days: 7, Requests: 1_000_000})
	if n := len(tr.Arrivals); n < 700_000 || n > 1_300_000 {
		t.Errorf("%d claims; want about a million", n)
	}
	if !slices.IsSortedFunc(tr.Arrivals, func(a, b Arrival) int { return int(a.At - b.At) }) {
		t.Error("claims are not in order")
	}
	claims := tr.PerTemplate()
	slices.Sort(claims)
	slices.Reverse(claims)
	top, all := 0, 0
	for i, n := range claims {
		if i < len(claims)*186/1000 {
			top += n
		}
		all += n
	}
	if share := float64(top) / float64(all); share < 0.97 {
		t.Errorf("the busiest 18.6 %% of the templates have %.1f %% of the claims; published are 99.6 %%", 100*share)
	}
	kinds := map[string]int{}
	for _, name := range tr.Templates {
		kind, _, _ := strings.Cut(name, "-")
		kinds[kind]++
	}
	if timers := float64(kinds["timer"]) / 400; math.Abs(timers-0.16) > 0.06 {
		t.Errorf("%.1f %% timers; published are 16 %%", 100*timers)
	}
	if kinds["agent"] < 180 || kinds["queue"] == 0 || kinds["event"] == 0 {
		t.Errorf("sources %v; want over half agents and some of each", kinds)
	}
	var hours [24]int
	for _, a := range tr.Arrivals {
		hours[tr.Start.Add(a.At).Hour()]++
	}
	if low, high := slices.Min(hours[:]), slices.Max(hours[:]); high < 2*low {
		t.Errorf("busiest hour of day %d, quietest %d: no daily wave", high, low)
	}
}

func TestPictureIsXML(t *testing.T) {
	rep, err := Compare(testTrace(2), DefaultParams(), []string{"none", "bulkhead", "oracle"})
	if err != nil {
		t.Fatal(err)
	}
	rep.Trace = `<&">`
	var b strings.Builder
	if err := rep.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 3 {
		t.Errorf("%d points; want one for each policy", circles)
	}
	if strings.Contains(b.String(), "NaN") || strings.Contains(b.String(), "Inf") {
		t.Error("the picture has numbers that are none")
	}
	if err := (&Report{}).WriteSVG(io.Discard); err != nil {
		t.Errorf("an empty report: %v", err)
	}
}

func TestUnknownPolicies(t *testing.T) {
	tr := at(1, 2, 3)
	for _, name := range []string{"", "nothing", "fixed", "fixed:x", "fixed:-1", "fixed:1+x", "fixed:1+1025", "keepalive", "keepalive:0s", "keepalive:-1m", "depth:x", "bulkhead:x", "bulkhead:-1", "equal", "equal+cold", "hybrid+-1"} {
		if _, err := Compare(tr, DefaultParams(), []string{name}); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("policy %q: %v; want it invalid", name, err)
		}
	}
	for _, f := range []func(*Params){
		func(p *Params) { p.Builders = 0 }, func(p *Params) { p.Builders = 257 }, func(p *Params) { p.MaxAge = 0 },
		func(p *Params) { p.Create = 0 }, func(p *Params) { p.Restore = -1 }, func(p *Params) { p.ColdMB = math.NaN() },
	} {
		p := DefaultParams()
		f(&p)
		if err := p.Validate(); bulkhead.CodeOf(err) != bulkhead.CodeInvalid {
			t.Errorf("%+v: %v; want it invalid", p, err)
		}
	}
}

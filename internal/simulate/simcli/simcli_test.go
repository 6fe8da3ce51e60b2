package simcli

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead/internal/simulate"
)

// run runs "simulate" with the given arguments and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var cli struct {
		Simulate Command `cmd:""`
	}
	var out strings.Builder
	k, err := kong.New(&cli, Vars(), kong.Writers(&out, &out), kong.Exit(func(int) { t.Fatalf("%q exits:\n%s", args, out.String()) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := k.Parse(append([]string{"simulate"}, args...))
	if err != nil {
		return out.String(), err
	}
	err = ctx.Run()
	return out.String(), err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const claims = "time,template\n0,a\n10,a\n20,b\n20.1,b\n"

func TestPoolReplaysATrace(t *testing.T) {
	trace := write(t, "t.csv", claims)
	out, err := run(t, "pool", "--trace", trace, "--policies", "none,bulkhead,oracle")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"t.csv: 4 claims for 2 templates in 20s", "none", "100.00 %", "bulkhead", "oracle"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestPoolReadsGzipAndWritesJSONAndSVG(t *testing.T) {
	dir := t.TempDir()
	trace, picture := filepath.Join(dir, "t.csv.gz"), filepath.Join(dir, "p.svg")
	f, err := os.Create(trace)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte(claims)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "pool", "--trace", trace, "--policies", "seed,fixed:1+1", "--as-json", "--svg", picture, "--restore", "50ms")
	if err != nil {
		t.Fatal(err)
	}
	var rep simulate.Report
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Requests != 4 || len(rep.Results) != 2 || rep.Results[1].Policy != "fixed:1+1" || rep.Params.Restore != 50e6 {
		t.Errorf("report is %+v", rep)
	}
	if svg, err := os.ReadFile(picture); err != nil || !strings.HasPrefix(string(svg), "<svg") {
		t.Errorf("picture: %.40q, %v", svg, err)
	}
}

func TestPoolGenerates(t *testing.T) {
	out, err := run(t, "pool", "--generate", "seed=3,templates=2,days=1,requests=100", "--policies", "seed", "--markdown")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "| seed |") || !strings.Contains(out, "seed=3,templates=2") {
		t.Errorf("output:\n%s", out)
	}
}

func TestGoalsOfSeveralTraces(t *testing.T) {
	out, err := run(t, "goals", "--trace", write(t, "t.csv", claims), "--generate", "seed=3,templates=2,days=1,requests=100", "--seeds", "2")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bulkhead with 16 builders", "| t.csv | 4 |", "| seed=3, templates=2,", "| seed=4, templates=2,"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	for _, bad := range [][]string{{"--trace", "/nowhere.csv"}, {"--generate", "color=1"}, {"--generate", "default", "--seeds", "0"}, {"--builders", "0"}, {"--generate", "days=1,requests=10", "--policy", "best"}} {
		if _, err := run(t, append([]string{"goals"}, bad...)...); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestPoolSaysWhatIsWrong(t *testing.T) {
	trace := write(t, "t.csv", "time\nx\n")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--trace", "/nowhere.csv"}, "open trace"},
		{[]string{"--trace", trace}, "row 2"},
		{[]string{"--trace", write(t, "t.csv.gz", "no gzip")}, "open trace"},
		{[]string{"--generate", "color=1"}, "not known"},
		{[]string{"--generate", "seed=1", "--trace", trace}, "can't be used together"},
		{[]string{"--generate", "days=1,requests=10", "--policies", "best"}, `policy "best" is not known`},
		{[]string{"--builders", "0"}, "builders is 0"},
		{[]string{"--as-json", "--markdown"}, "can't be used together"},
	} {
		if _, err := run(t, append([]string{"pool"}, tc.args...)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v; want it to say %q", tc.args, err, tc.want)
		}
	}
}

func TestTablesAreFilledIn(t *testing.T) {
	doc := write(t, "d.md", "before\n<!-- simulate pool --generate days=1,requests=50 --policies seed -->\nstale\n<!-- end -->\nafter\n")
	for range 2 { // the second time changes nothing
		if _, err := run(t, "tables", doc); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		text := string(got)
		if !strings.HasPrefix(text, "before\n<!-- simulate pool --generate days=1,requests=50 --policies seed -->\ngenerated ") ||
			!strings.HasSuffix(text, "<!-- end -->\nafter\n") || strings.Contains(text, "stale") || strings.Count(text, "| seed |") != 1 {
			t.Errorf("document:\n%s", text)
		}
	}
	for _, bad := range []string{"<!-- simulate pool --x -->\n<!-- end -->", "<!-- simulate pool --as-json", "<!-- simulate pool --as-json -->\nno end"} {
		if _, err := run(t, "tables", write(t, "bad.md", bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

var update = flag.Bool("update", false, "compute the tables of docs/pools-policy.md again, which takes a minute")

// TestPolicyDocument checks the tables of the document that are quick to compute,
// those of the recorded trace, against the code.
func TestPolicyDocument(t *testing.T) {
	const doc = "../../../docs/pools-policy.md"
	if *update {
		if _, err := run(t, "tables", doc); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, block := range strings.Split(string(data), opening)[1:] {
		body, _, ok := strings.Cut(block, closing)
		if !ok {
			t.Fatalf("no end to the table of %.60q", block)
		}
		args, _, _ := strings.Cut(body, " -->")
		if _, err := parse(strings.Fields(args), ""); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if !strings.Contains(args, "--trace") || strings.Contains(args, "--svg") {
			continue
		}
		was := opening + body + closing
		now, err := fill(was, filepath.Dir(doc))
		if err != nil {
			t.Fatal(err)
		}
		if now != was {
			t.Errorf("the table of %q is not what the code says now; run the test with -update:\n%s", args, now)
		}
		checked++
	}
	if checked == 0 {
		t.Error("no table was checked")
	}
}

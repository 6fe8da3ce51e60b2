package guard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeTree writes files under a new directory and returns it.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const hostMeminfo = "MemTotal:       8388608 kB\nMemFree:         100000 kB\nMemAvailable:   6291456 kB\n"

func TestProbe(t *testing.T) {
	const psi = "some avg10=12.50 avg60=1.00 avg300=0.10 total=5\nfull avg10=3.25 avg60=0.00 avg300=0.00 total=1\n"
	for _, s := range []struct {
		name  string
		files map[string]string
		want  Reading
	}{
		{"host", map[string]string{
			"proc/meminfo": hostMeminfo, "proc/pressure/memory": psi,
		}, Reading{Used: 2 * gib, Limit: 8 * gib, Some10: 12.5, Full10: 3.25, Source: "host"}},
		{"cgroup v2, own directory and pressure", map[string]string{
			"proc/meminfo": hostMeminfo, "proc/self/cgroup": "0::/app/web\n",
			"sys/fs/cgroup/app/web/memory.max":      "2147483648\n",
			"sys/fs/cgroup/app/web/memory.current":  "1610612736\n",
			"sys/fs/cgroup/app/web/memory.stat":     "anon 1\ninactive_file 536870912\n",
			"sys/fs/cgroup/app/web/memory.pressure": psi,
		}, Reading{Used: gib, Limit: 2 * gib, Some10: 12.5, Full10: 3.25, Source: "cgroup2"}},
		{"cgroup v2, the parent is tighter", map[string]string{
			"proc/meminfo": hostMeminfo, "proc/self/cgroup": "0::/app/web\n",
			"sys/fs/cgroup/app/web/memory.max":     "max\n",
			"sys/fs/cgroup/app/web/memory.current": "1\n",
			"sys/fs/cgroup/app/memory.max":         "1073741824\n",
			"sys/fs/cgroup/app/memory.current":     "1048576\n",
			"sys/fs/cgroup/app/memory.stat":        "inactive_file 0\n",
		}, Reading{Used: mib, Limit: gib, Source: "cgroup2"}},
		{"cgroup v1 in a container", map[string]string{
			"proc/meminfo": hostMeminfo, "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes": "1073741824\n",
			"sys/fs/cgroup/memory/memory.stat":           "inactive_file 1\ntotal_inactive_file 1048576\n",
		}, Reading{Used: gib - mib, Limit: 2 * gib, Source: "cgroup1"}},
		{"cgroup v1 without a limit", map[string]string{
			"proc/meminfo": hostMeminfo, "proc/self/cgroup": "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
		}, Reading{Used: 2 * gib, Limit: 8 * gib, Source: "host"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			p, err := OpenProbe(writeTree(t, s.files))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close() }()
			got, err := p.Read(true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.want, got); diff != "" {
				t.Errorf("reading (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProbeErrors(t *testing.T) {
	if _, err := OpenProbe(t.TempDir()); err == nil {
		t.Error("no error without meminfo")
	}
	if _, err := OpenProbe(writeTree(t, map[string]string{"proc/meminfo": "garbage"})); err == nil {
		t.Error("no error with garbage in meminfo")
	}
	p, err := OpenProbe(writeTree(t, map[string]string{"proc/meminfo": hostMeminfo}))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(false); err == nil {
		t.Error("no error after Close")
	}
}

func TestProbeOfThisMachine(t *testing.T) {
	p, err := OpenProbe("/")
	if err != nil {
		t.Skip("needs Linux's /proc:", err)
	}
	defer func() { _ = p.Close() }()
	r, err := p.Read(true)
	if err != nil || r.Limit <= 0 || r.Used <= 0 || r.Used > r.Limit {
		t.Errorf("reading %+v, error %v", r, err)
	}
}

func FuzzParsePressure(f *testing.F) {
	f.Add([]byte("some avg10=1.00 avg60=0\nfull avg10=0.5\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		some, full := parsePressure(data)
		if !(some >= 0 && some <= 100 && full >= 0 && full <= 100) {
			t.Errorf("%v %v", some, full)
		}
		field(data, "MemTotal:")
	})
}

func TestLearner(t *testing.T) {
	l, err := NewLearner(2)
	if err != nil {
		t.Fatal(err)
	}
	if _, known := l.Kind("a", 100).Estimate(7); known {
		t.Error("an unseen program is known")
	}
	for i := range int64(100) {
		l.Kind("a", 100).Observe((i + 1) * mib)
	}
	l.Kind("a", 100).Observe(-1)
	got, known := l.Kind("a", 100).Estimate(7)
	if want := float64(99 * mib * 1.15); !known || float64(got) < 0.96*want || float64(got) > 1.04*want {
		t.Errorf("estimate %d MiB, known %v, want about %.0f", got>>20, known, want/mib)
	}
	if _, known := l.Kind("a", 1<<20).Estimate(7); known {
		t.Error("another input size is the same kind")
	}
	for range 3 * learnerGeneration { // two generations on, the old peaks are forgotten
		l.Kind("a", 100).Observe(mib)
	}
	if got, _ := l.Kind("a", 100).Estimate(7); got > 2*mib {
		t.Errorf("estimate %d MiB after many runs of 1 MiB, want the old peaks forgotten", got>>20)
	}
	l.Kind("b", 1).Observe(mib)
	l.Kind("c", 1).Observe(mib)
	if got := l.Len(); got != 2 {
		t.Errorf("%d kinds kept, limit 2", got)
	}
	if _, err := NewLearner(0); err == nil {
		t.Error("no error for a learner of no kinds")
	}
}

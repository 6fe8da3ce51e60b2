package interp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKernelspecs: specs are found by language and by name, the first directory
// wins, and what is broken is as if it were not there.
func TestKernelspecs(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	writeSpec(t, first, "ir", "R", "/first/R", "{connection_file}")
	writeSpec(t, second, "ir", "R", "/second/R")
	writeSpec(t, second, "deno", "typescript", "deno")
	writeSpec(t, second, "xjulia", "julia", "julia", "{resource_dir}/run")
	writeSpec(t, second, "python3", "python", "python3")
	writeSpec(t, second, "empty", "none")
	for name, text := range map[string]string{"broken": "{", "long": `{"argv":["` + strings.Repeat("x", maxSpecBytes) + `"]}`} {
		dir := filepath.Join(second, "kernels", name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "kernel.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{filepath.Join(first, "kernels"), "/does/not/exist", filepath.Join(second, "kernels")}
	for name, want := range map[string]string{
		"r": "/first/R", "ir": "/first/R", "javascript": "deno", "typescript": "deno", "julia": "julia", "xjulia": "julia",
		"python": "", "python3": "", "broken": "", "long": "", "empty": "", "cobol": "",
	} {
		spec, found, _ := findSpec(dirs, name)
		if got := append(spec.Argv, "")[0]; found != (want != "") || (found && got != want) {
			t.Errorf("%s: found %v %q, want %q", name, found, got, want)
		}
	}
	_, _, have := findSpec(dirs, "cobol")
	if diff := cmp.Diff([]string{"javascript", "julia", "r", "typescript"}, have); diff != "" {
		t.Errorf("languages (-want +got):\n%s", diff)
	}
	spec, _, _ := findSpec(dirs, "julia")
	want := []string{"julia", filepath.Join(second, "kernels", "xjulia") + "/run"}
	if diff := cmp.Diff(want, spec.argv("/c.json")); diff != "" {
		t.Errorf("command line (-want +got):\n%s", diff)
	}
}

// TestNormalize: languages go by several names.
func TestNormalize(t *testing.T) {
	for name, want := range map[string]string{
		"": "python", " Python ": "python", "JS": "javascript", "ts": "typescript", "sh": "bash", "Cobol": "cobol",
	} {
		if got := normalize(name); got != want {
			t.Errorf("normalize(%q) is %q, want %q", name, got, want)
		}
	}
}

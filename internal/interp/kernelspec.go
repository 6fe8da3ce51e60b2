package interp

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kernelspec is how a Jupyter kernel is started: its kernel.json.
type kernelspec struct {
	Argv          []string          `json:"argv"`
	Language      string            `json:"language"`
	InterruptMode string            `json:"interrupt_mode"`
	Env           map[string]string `json:"env"`

	name string // of its directory
	dir  string
}

const maxSpecBytes = 64 << 10

// specDirs returns the directories that may hold kernelspecs, in Jupyter's order.
func specDirs(home, python string, env map[string]string) []string {
	var dirs []string
	for _, d := range filepath.SplitList(env["JUPYTER_PATH"]) {
		dirs = append(dirs, filepath.Join(d, "kernels"))
	}
	dirs = append(dirs, filepath.Join(home, ".local/share/jupyter/kernels"))
	if filepath.IsAbs(python) {
		prefix := filepath.Dir(filepath.Dir(python))
		dirs = append(dirs, filepath.Join(prefix, "share/jupyter/kernels"))
	}
	return append(dirs, "/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
}

// findSpec returns the kernelspec that serves a language, and the names of the
// languages that there are kernelspecs for.
func findSpec(dirs []string, name string) (spec kernelspec, found bool, have []string) {
	specs := map[string]kernelspec{}
	languagesOf := map[string]string{} // language to name of spec
	for _, dir := range slices.Backward(dirs) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // most do not exist
		}
		for _, e := range entries {
			s, err := readSpec(filepath.Join(dir, e.Name()))
			if err != nil {
				continue // not a kernelspec, or broken: as if it were not there
			}
			specs[s.name] = s
			languagesOf[strings.ToLower(s.Language)] = s.name
		}
	}
	for lang := range languages {
		for _, s := range languages[lang].specs {
			if _, ok := specs[s]; ok {
				languagesOf[lang] = s
				break
			}
		}
	}
	delete(languagesOf, python) // the lean lane serves it
	delete(languagesOf, shell)
	have = slices.Sorted(maps.Keys(languagesOf))
	if s, ok := specs[languagesOf[name]]; ok {
		return s, true, have
	}
	s, ok := specs[name]
	return s, ok && normalize(s.Language) != python, have
}

// readSpec reads the kernelspec in dir.
func readSpec(dir string) (kernelspec, error) {
	f, err := os.Open(filepath.Join(dir, "kernel.json"))
	if err != nil {
		return kernelspec{}, fmt.Errorf("read kernelspec: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxSpecBytes))
	if err != nil {
		return kernelspec{}, fmt.Errorf("read kernelspec: %w", err)
	}
	s := kernelspec{name: strings.ToLower(filepath.Base(dir)), dir: dir}
	if err := json.Unmarshal(data, &s); err != nil {
		return kernelspec{}, fmt.Errorf("read kernelspec %s: %w", dir, err)
	}
	if len(s.Argv) == 0 {
		return kernelspec{}, fmt.Errorf("read kernelspec %s: argv is empty", dir)
	}
	return s, nil
}

// argv returns the command line for a connection file.
func (s kernelspec) argv(connection string) []string {
	r := strings.NewReplacer("{connection_file}", connection, "{resource_dir}", s.dir, "{prefix}", "/usr")
	out := make([]string, len(s.Argv))
	for i, a := range s.Argv {
		out[i] = r.Replace(a)
	}
	return out
}

// ipc reports whether the kernel is known to serve Unix sockets, which, unlike
// ports, no other program of the box can take first. Kernels written in Python
// stand on ipykernel, which does; of others one cannot know.
func (s kernelspec) ipc() bool {
	return strings.HasPrefix(filepath.Base(s.Argv[0]), "python")
}

package cli_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead/internal/cli"
)

// A build ends when the server of this host serves what was built.
func TestBuildWaitsForTheServer(t *testing.T) {
	built := "sha256:" + strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		digests []string // what the server says, one answer after another
		warm    int
		asked   int64
	}{
		"new version":        {[]string{"sha256:01", "sha256:01", built}, 2, 3},
		"nothing waits":      {[]string{"sha256:01"}, 0, 1},
		"same version":       {[]string{built}, 2, 1},
		"server goes away":   {[]string{"sha256:01", ""}, 2, 2},
		"another template's": {[]string{"other"}, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				digest := c.digests[min(int(asked.Add(1))-1, len(c.digests)-1)]
				if digest == "" {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				template := "deb"
				if digest == "other" {
					template = digest
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"pools": []any{map[string]any{"template": template, "digest": digest, "warm": c.warm}}})
			}))
			defer srv.Close()
			dir := t.TempDir()
			creds, err := json.Marshal(cli.Credentials{URL: srv.URL, APIKey: "k"})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "client.json")
			if err := os.WriteFile(file, creds, 0o600); err != nil {
				t.Fatal(err)
			}
			var g struct {
				cli.Flags
				cli.Commands
			}
			var out, errOut bytes.Buffer
			code := cli.Main(t.Context(), &cli.Env{
				Stdout: &out, Stderr: &errOut, Credentials: file, Templates: shelf(t.TempDir()),
				Options: []kong.Option{kong.Exit(func(int) {})},
			}, &g, []string{"template", "build", "--image", "debian", "--name", "deb"})
			if code != 0 || asked.Load() != c.asked || !strings.Contains(errOut.String(), "built deb") {
				t.Errorf("code %d after %d questions, want 0 and %d: %s", code, asked.Load(), c.asked, errOut.String())
			}
			if waited := strings.Contains(errOut.String(), "makes boxes of it"); waited != (c.asked > 1) {
				t.Errorf("said: %s", errOut.String())
			}
		})
	}
}

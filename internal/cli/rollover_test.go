package cli

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

	"github.com/bulkheadhq/bulkhead"
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
			creds, err := json.Marshal(Credentials{URL: srv.URL, APIKey: "k"})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "client.json")
			if err := os.WriteFile(file, creds, 0o600); err != nil {
				t.Fatal(err)
			}
			var errOut bytes.Buffer
			a := &App{env: (&Env{Stderr: &errOut, Credentials: file}).withDefaults(), flags: &Flags{}}
			a.awaitRollover(t.Context(), bulkhead.Template{Name: "deb", Digest: built})
			if asked.Load() != c.asked {
				t.Errorf("%d questions, want %d", asked.Load(), c.asked)
			}
			if waited := strings.Contains(errOut.String(), "makes boxes of it"); waited != (c.asked > 1) {
				t.Errorf("said: %s", errOut.String())
			}
		})
	}
}

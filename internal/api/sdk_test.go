package api_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/api"
	"github.com/bulkheadhq/bulkhead/internal/testenv"
)

// sdks is a directory with one directory for each version of the SDK to drive,
// made with: npm install --prefix DIR/VERSION e2b@VERSION.
var sdks = flag.String("sdks", os.Getenv("BULKHEAD_TEST_SDKS"), "directory with node packages of the E2B SDK")

func TestOfficialSDKs(t *testing.T) {
	testenv.Have(t, "e2b-sdk", *sdks != "", "neither -sdks nor BULKHEAD_TEST_SDKS names a directory")
	testenv.Need(t, "node")
	packages, err := filepath.Glob(filepath.Join(*sdks, "*", "node_modules", "e2b"))
	if err != nil || len(packages) == 0 {
		t.Fatalf("no package in %s: %v", *sdks, err)
	}
	for _, dir := range packages {
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(dir))), func(t *testing.T) {
			b := newBench(t, func(cfg *api.Config) {
				cfg.Domain = ""
				cfg.Lifecycle = scripted{cfg.Lifecycle}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", filepath.Join("testdata", "sdk.cjs"), dir)
			cmd.Env = append(os.Environ(), "E2B_API_KEY="+b.key, "E2B_API_URL="+b.url, "E2B_SANDBOX_URL="+b.url)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s\n%s", err, out, b.log)
			}
			t.Logf("%s", out)
		})
	}
}

// scripted answers some names with errors that a fake without boxes has no cause for.
type scripted struct{ api.Lifecycle }

func (s scripted) Create(ctx context.Context, req bulkhead.CreateRequest) (bulkhead.Sandbox, error) {
	switch req.Template {
	case "quota":
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeQuotaExceeded, "you have reached the maximum number of concurrent sandboxes (1)")
	case "full":
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeUnavailable, "the node is full")
	}
	return s.Lifecycle.Create(ctx, req)
}

func (s scripted) SetDeadline(ctx context.Context, tenant, id string, at time.Time, extendOnly bool) (bulkhead.Sandbox, error) {
	if id == "ending" {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeConflict, "sandbox %q is ending", id)
	}
	return s.Lifecycle.SetDeadline(ctx, tenant, id, at, extendOnly)
}

package reap_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
	"github.com/bulkheadhq/bulkhead/internal/envd/reap"
)

// helper, when set, makes the test binary play process 1.
const helper = "BULKHEAD_TEST_REAP"

//nolint:gochecknoinits // the one way to have the main goroutine on the main thread
func init() {
	if os.Getenv(helper) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		os.Exit(playInit())
	}
	os.Exit(m.Run())
}

// playInit starts programs of its own and orphans at the same time, checks that
// every exit code arrives and that nothing stays behind.
func playInit() int {
	if err := reap.Adopt(); err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		defer cancel()
		failed <- churn()
	}()
	if err := reap.Orphans(ctx); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := <-failed; err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func churn() error {
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for i := range cap(errs) {
		wg.Go(func() {
			code := i % 7
			// The inner shell ends at once, so its child is orphaned and ends later.
			err := exec.Command("sh", "-c", "(sleep 0.0"+strconv.Itoa(i%9)+" &) ; exit "+strconv.Itoa(code)).Run()
			var exit *exec.ExitError
			if code == 0 && err != nil || code != 0 && (!errors.As(err, &exit) || exit.ExitCode() != code) {
				errs <- fmt.Errorf("program %d: %w; want exit code %d", i, err, code)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		all, err := proctree.List("/proc")
		if err != nil {
			return err
		}
		left := 0
		for _, p := range all {
			if p.Parent == os.Getpid() {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d children are left", left)
		}
		runtime.Gosched()
	}
}

func TestOrphansBesideExec(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), helper+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestOrphansOffTheMainThread(t *testing.T) {
	// Two goroutines that are locked at the same time are on two threads, so one
	// of them at least is not on the main thread.
	var wg sync.WaitGroup
	both := make(chan struct{})
	errs := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	for range cap(errs) {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			both <- struct{}{}
			errs <- reap.Orphans(ctx)
		})
	}
	<-both
	<-both
	if err := <-errs; !errors.Is(err, reap.ErrNotMainThread) {
		t.Errorf("error = %v; want %v", err, reap.ErrNotMainThread)
	}
	cancel()
	wg.Wait()
}

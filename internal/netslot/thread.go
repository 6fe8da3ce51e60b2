package netslot

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// hostNS is the network namespace that plays the host.
type hostNS struct {
	ns netns.NsHandle // netns.None() for this process's own
}

func openHostNS(path string) (hostNS, error) {
	if path == "" {
		return hostNS{ns: netns.None()}, nil
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return hostNS{}, fmt.Errorf("open HostNS %s: %w", path, err)
	}
	return hostNS{ns: ns}, nil
}

// do runs fn in the host's namespace.
func (h hostNS) do(fn func() error) error {
	if h.ns == netns.None() {
		return fn()
	}
	return onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter the host's namespace: %w", err)
		}
		return fn()
	})
}

// within runs fn in the namespace bound at path.
func within(path string, fn func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		defer ns.Close() //nolint:errcheck // only read
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn, which may change its thread's network namespace, on an OS
// thread of its own and puts the thread back. A thread that cannot be put back
// stays locked to the goroutine that ends here, which ends the thread too. The
// thread is otherwise kept alive on purpose: the end of a thread would kill the
// children that were started on it with a parent-death signal.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("read own network namespace: %w", err)
			return
		}
		defer home.Close() //nolint:errcheck // only read
		err = fn()
		if back := netns.Set(home); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

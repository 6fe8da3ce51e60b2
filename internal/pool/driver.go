package pool

import (
	"context"
	"log/slog"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Driver makes boxes. All methods may be called from several goroutines, for
// one box by one goroutine at a time except Wait, which may run beside any.
//
// A box survives the process that made it: a Driver opened later on the same
// directory finds it through List, and every method works on it.
type Driver interface {
	// Capabilities says what the driver can do. The answer never changes.
	Capabilities() Capabilities
	// Create makes a box that runs nothing yet. It blocks until the box can be
	// started or restored, and leaves nothing behind when it fails.
	Create(ctx context.Context, spec BoxSpec) error
	// Start runs the box's envd and blocks until envd says it is ready.
	Start(ctx context.Context, id string) error
	// Checkpoint saves a running box into dir, which must be empty, and ends the
	// box. CodeUnsupported without the capability.
	Checkpoint(ctx context.Context, id, dir string) error
	// Restore fills a created box, never started, from dir. When it returns, the
	// box's sockets accept connections. CodeUnsupported without the capability.
	Restore(ctx context.Context, id, dir string) error
	// Wait blocks until the box's main process is gone and returns nil, or until
	// ctx is done and returns its error. CodeNotFound for an unknown box. Until
	// then it gives each line that the box's envd logs to say, which may be nil
	// and must not block for long. At most one Wait at a time gets the lines.
	Wait(ctx context.Context, id string, say Say) error
	// Destroy ends the box whatever it does and returns everything the driver
	// took for it. It may be repeated, and is nil for an unknown box.
	Destroy(ctx context.Context, id string) error
	// List returns every box that has traces on the host, in no order.
	List(ctx context.Context) ([]BoxInfo, error)
}

// Say takes one line of a box's log. The box wrote it, so it may hold anything;
// it is valid UTF-8 of at most 16 KiB.
type Say func(level slog.Level, message string)

// Capabilities are what a driver can do beyond the least.
type Capabilities struct {
	// Name is the driver's name: "gvisor", "runc", "fake".
	Name string `json:"name"`
	// Snapshots says whether Checkpoint and Restore work.
	Snapshots bool `json:"snapshots"`
	// Isolation is one word on what stands between box and host kernel.
	Isolation string `json:"isolation"`
}

// BoxSpec says what box to make.
type BoxSpec struct {
	// ID names the box: [a-z0-9-], at most 40 characters.
	ID string
	// Image is the absolute path of the template's EROFS image.
	Image string
	// Netns is the path of the network namespace the box lives in.
	Netns string
	// Guest is the host folder that is mounted, read-only, at boxrpc.GuestDir.
	Guest string
	// Hostname is the box's name for itself until it is leased.
	Hostname string
	// Limits shape what the driver itself bounds: disk, open files, and what the
	// box is told of its size. No field is zero.
	Limits bulkhead.Limits
	// Env is the environment of the box's main process.
	Env []string
}

// BoxInfo is what a driver knows of a box on the host.
type BoxInfo struct {
	// ID is the box's.
	ID string
	// Alive says whether its main process runs.
	Alive bool
	// Pid is its main process on the host; 0 when not Alive.
	Pid int
	// CreatedAt is when it was created.
	CreatedAt time.Time
}

package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bulkheadhq/bulkhead/internal/cgroup"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// CapacityConfig says what of this host sandboxes may have. Zero fields take the
// value in brackets.
type CapacityConfig struct {
	// Book is told; required.
	Book *quota.Book
	// Sandboxes is how many may live at once [no bound].
	Sandboxes int
	// CPUOvercommit is how many cores are promised for each that there is [1].
	CPUOvercommit float64
	// ReserveMemoryMB and ReserveDiskMB are kept free of sandboxes, in MiB.
	ReserveMemoryMB, ReserveDiskMB int64
	// Memory reads what the sandboxes may have together [the host's].
	Memory func() (cgroup.HostMem, error)
	// DiskDir is a folder on the disk that sandboxes write to [no bound of disk].
	DiskDir string
	// MaxStall is the share of the last ten seconds, in percent, in which all work
	// on the host may have waited for memory; above it nothing new is taken on [20].
	MaxStall float64
	// Lent, when set, is memory in bytes that is in use and goes to sandboxes first
	// when they need it: that of the boxes which wait.
	Lent func() int64
	// Every is the time between two looks [500 ms].
	Every time.Duration
	// Log gets what cannot be read; required.
	Log *slog.Logger
}

// Capacity watches what this host can promise and tells a book of it. One
// goroutine at a time may use it.
type Capacity struct {
	cfg   CapacityConfig
	busy  cgroup.HostCPU // at the last look
	at    time.Time
	load  float64 // of the processors, smoothed
	mute  bool    // an error was logged and is still there
	total int64   // of the disk, in MiB, when first seen
}

// NewCapacity checks cfg and takes a first look.
func NewCapacity(cfg CapacityConfig) (*Capacity, error) {
	if cfg.Book == nil || cfg.Log == nil {
		return nil, errors.New("host: Book and Log are required")
	}
	if cfg.CPUOvercommit <= 0 {
		cfg.CPUOvercommit = 1
	}
	if cfg.Memory == nil {
		cfg.Memory = cgroup.HostMemory
	}
	if cfg.MaxStall <= 0 {
		cfg.MaxStall = 20
	}
	if cfg.Every <= 0 {
		cfg.Every = 500 * time.Millisecond
	}
	c := &Capacity{cfg: cfg}
	return c, c.look(time.Now())
}

// Run keeps the book up to date until ctx is done. What it cannot read stays as
// it was last seen.
func (c *Capacity) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			err := c.look(now)
			if err != nil && !c.mute {
				c.cfg.Log.ErrorContext(ctx, "look at the host", "error", err)
			}
			c.mute = err != nil
		}
	}
}

// look reads the host and tells the book.
func (c *Capacity) look(now time.Time) error {
	const unlimited = quota.Unlimited
	h := quota.Host{
		Most: quota.Amounts{unlimited, milli(float64(runtime.NumCPU()) * c.cfg.CPUOvercommit), unlimited, unlimited},
		Free: quota.Amounts{unlimited, unlimited, unlimited, unlimited},
	}
	if c.cfg.Sandboxes > 0 {
		h.Most[quota.Sandboxes] = int64(c.cfg.Sandboxes)
	}
	mem, err := c.cfg.Memory()
	if err != nil {
		return fmt.Errorf("read memory: %w", err)
	}
	h.Most[quota.Memory] = max(0, mem.Total>>20-c.cfg.ReserveMemoryMB)
	h.Free[quota.Memory] = mem.Available>>20 - c.cfg.ReserveMemoryMB
	if c.cfg.Lent != nil {
		h.Free[quota.Memory] += c.cfg.Lent() >> 20
	}
	h.Load.Memory = 1 - float64(mem.Available)/float64(mem.Total)
	if c.cfg.DiskDir != "" {
		var fs unix.Statfs_t
		if err := unix.Statfs(c.cfg.DiskDir, &fs); err != nil {
			return fmt.Errorf("read disk: %w", err)
		}
		h.Free[quota.Disk] = int64(fs.Bavail)*fs.Bsize>>20 - c.cfg.ReserveDiskMB //nolint:gosec // less than 2^63
		if c.total == 0 {
			c.total = max(h.Free[quota.Disk], int64(fs.Blocks)*fs.Bsize>>20-c.cfg.ReserveDiskMB) //nolint:gosec // less than 2^63
		}
		h.Most[quota.Disk] = max(0, c.total)
	}
	cpu, err := cgroup.HostProcessors()
	if err != nil {
		return fmt.Errorf("read processors: %w", err)
	}
	h.Load.CPU = c.smooth(now, cpu)
	p, err := cgroup.HostPressure()
	switch {
	case errors.Is(err, errors.ErrUnsupported): // what is available says enough
	case err != nil:
		return fmt.Errorf("read pressure: %w", err)
	case p.Memory.Full10 > c.cfg.MaxStall && mem.Available < mem.Total/2: // else some group is at a limit of its own
		h.Pressure = fmt.Sprintf("all work waited for memory in %.0f %% of the last ten seconds; %.0f %% is the limit", p.Memory.Full10, c.cfg.MaxStall)
	}
	c.cfg.Book.See(now, h)
	return nil
}

// smoothing is how long the load of the processors takes to follow.
const smoothing = 10 * time.Second

// smooth returns the share of the processors that is busy, from 0 to 1.
func (c *Capacity) smooth(now time.Time, cpu cgroup.HostCPU) float64 {
	was, since := c.busy, now.Sub(c.at)
	c.busy, c.at = cpu, now
	all := cpu.Busy + cpu.Idle - was.Busy - was.Idle
	if was.Idle == 0 || all <= 0 {
		return c.load
	}
	share := float64(cpu.Busy-was.Busy) / float64(all)
	c.load += (share - c.load) * (1 - math.Exp(-float64(since)/float64(smoothing)))
	return c.load
}

// milli is a number of cores in thousandths.
func milli(cores float64) int64 { return int64(math.Round(cores * 1000)) }

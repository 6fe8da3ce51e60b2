package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/boxrpc"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// Resize changes limits of a running sandbox of the tenant, up or down, without
// disturbing what runs in it: CPU, memory, processes, network, connections and output
// rate. Connections that are open stay so and count. Zero fields stay. It returns when the change is in force and durable. Memory is never taken
// below what is in use. Codes: not_found; invalid; unsupported for the other
// limits; quota_exceeded and unavailable when there is no room for more; conflict
// for memory that is in use.
func (n *Node) Resize(ctx context.Context, tenant, id string, want bulkhead.Limits) (bulkhead.Sandbox, error) {
	if err := resizable(want); err != nil {
		return bulkhead.Sandbox{}, err
	}
	l, err := n.find(tenant, id)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	tier, err := n.tier(ctx, l.tenant)
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	l.resizing.Lock()
	defer l.resizing.Unlock()
	sb, err := n.resize(context.WithoutCancel(ctx), l, tier, want) // half a change is none
	if err != nil {
		return bulkhead.Sandbox{}, err
	}
	n.tellLimits(ctx, l.box, sb)
	return sb, nil
}

// resize is Resize but for what the box is told.
func (n *Node) resize(ctx context.Context, l *lease, tier bulkhead.Tier, want bulkhead.Limits) (bulkhead.Sandbox, error) {
	l.mu.Lock() // over all of it, as in SetDeadline
	defer l.mu.Unlock()
	if l.sb.State != bulkhead.StateRunning {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q does not exist", l.sb.ID)
	}
	from := l.sb.Limits
	to := want.Or(from)
	if to == from {
		return l.sb, nil
	}
	if to.MemoryMB < from.MemoryMB {
		if err := spared(l, to.MemoryMB); err != nil {
			return bulkhead.Sandbox{}, err
		}
	}
	if err := n.rebind(ctx, l, tier, to); err != nil {
		return bulkhead.Sandbox{}, errors.Join(err, n.rebind(ctx, l, tier, from))
	}
	return l.sb, nil
}

// resizable refuses what cannot change while a sandbox runs.
func resizable(l bulkhead.Limits) error {
	for _, f := range []struct {
		name  string
		value int64
		why   string
	}{
		{"diskMB", l.DiskMB, "the disk is made with the box"},
		{"openFiles", l.OpenFiles, "programs that run keep the number they were started with"},
		{"outputMB", l.OutputMB, "programs that run keep the limit they were started with"},
		{"cpuSeconds", l.CPUSeconds, "programs that run keep the limit they were started with"},
	} {
		if f.value != 0 {
			return bulkhead.Errorf(bulkhead.CodeUnsupported, "%s cannot be changed while a sandbox runs: %s", f.name, f.why)
		}
	}
	if l == (bulkhead.Limits{}) {
		return bulkhead.Errorf(bulkhead.CodeInvalid, "nothing to change: name cpu, memoryMB, pids, bandwidthKbps, packetsPerSecond, connections or outputMBPerSecond")
	}
	return l.Validate() //nolint:wrapcheck // it names the field
}

// spared refuses a memory limit below what the box uses, with a margin for what it
// takes while the limit is being lowered.
func spared(l *lease, memoryMB int64) error {
	usage, err := l.box.Part.Usage()
	if err != nil {
		return fmt.Errorf("measure box: %w", err)
	}
	used := (usage.Memory - usage.Cache + 1<<20 - 1) >> 20
	floor := max(64, used+used/10+16)
	if memoryMB >= floor {
		return nil
	}
	return &bulkhead.Error{
		Code:  bulkhead.CodeConflict,
		Limit: &bulkhead.LimitEvidence{Name: "sandbox.memoryMB", Limit: float64(floor), Used: float64(used), Asked: float64(memoryMB), Unit: "MiB"},
		Msg: fmt.Sprintf("memoryMB cannot be lowered to %d: %d MiB are in use, so that %d MiB is the least now",
			memoryMB, used, floor),
	}
}

// rebind changes the limits in the book, in the row and on the host; l.mu is held.
// Whatever happens in between, what is booked and recorded is at least what is in
// force, so that a server that starts anew can put the row in force.
func (n *Node) rebind(ctx context.Context, l *lease, tier bulkhead.Tier, to bulkhead.Limits) error {
	const why = "changed while it ran"
	from := l.sb.Limits
	most := atLeast(from, to)
	if most != from {
		if err := l.booking.Change(time.Now(), tier, most, why); err != nil {
			return err //nolint:wrapcheck // it says which limit
		}
		if err := n.record(ctx, l); err != nil {
			return err
		}
	}
	egress, err := l.sb.Network.Egress(l.sb.AllowInternet)
	if err != nil {
		return err //nolint:wrapcheck // it was checked when it was set
	}
	if err := l.box.Part.Bind(ctx, to, egress); err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	if to != most {
		if err := l.booking.Change(time.Now(), tier, to, why); err != nil {
			return err //nolint:wrapcheck // it says which limit
		}
		return n.record(ctx, l)
	}
	return nil
}

// record writes the sandbox's row with what is booked for it; l.mu is held.
func (n *Node) record(ctx context.Context, l *lease) error {
	l.allocate(l.booking.Allocation())
	if err := n.cfg.Store.PutSandbox(ctx, l.sb); err != nil {
		return fmt.Errorf("record limits: %w", err)
	}
	return nil
}

// atLeast returns the larger of each limit that can change.
func atLeast(a, b bulkhead.Limits) bulkhead.Limits {
	a.CPU = max(a.CPU, b.CPU)
	a.MemoryMB = max(a.MemoryMB, b.MemoryMB)
	a.Pids = max(a.Pids, b.Pids)
	a.BandwidthKbps = max(a.BandwidthKbps, b.BandwidthKbps)
	a.PacketsPerSecond = max(a.PacketsPerSecond, b.PacketsPerSecond)
	a.Connections = max(a.Connections, b.Connections)
	a.OutputMBPerSecond = max(a.OutputMBPerSecond, b.OutputMBPerSecond)
	return a
}

// tellTimeout bounds how long a box may take to hear of its limits.
const tellTimeout = 2 * time.Second

// tellLimits lets the box end its programs by its new limits before the host does.
// The host's are in force, so a box that does not listen harms itself only.
func (n *Node) tellLimits(ctx context.Context, box *pool.Box, sb bulkhead.Sandbox) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	err := n.postLimits(ctx, box, sb)
	if err != nil {
		n.cfg.Log.WarnContext(ctx, "tell the box of its limits", "sandbox", sb.ID, "err", err)
	}
}

func (n *Node) postLimits(ctx context.Context, box *pool.Box, sb bulkhead.Sandbox) error {
	body, err := json.Marshal(boxrpc.Limits{
		MemoryBytes: sb.Limits.MemoryMB << 20, Pids: sb.Limits.Pids, CPUs: int64(math.Ceil(sb.Limits.CPU)),
		OutputBytesPerSecond: sb.Limits.OutputMBPerSecond << 20,
	})
	if err != nil {
		return fmt.Errorf("encode limits: %w", err)
	}
	resp, err := n.ask(ctx, box, boxrpc.EnvdPort, http.MethodPost, "/limits", body, sb.EnvdToken)
	if err != nil {
		return err //nolint:wrapcheck // it names method and URL
	}
	defer drained(resp)
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("envd answered %d", resp.StatusCode)
	}
	return nil
}

package guard

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/envd/proctree"
)

// look measures the box once, acts if it must, and returns how long to wait
// before the next look; 0 means until something runs.
func (g *Guard) look() time.Duration {
	g.mu.Lock()
	limits, group, running := g.limits, g.group, len(g.watched) > 0
	g.mu.Unlock()
	if limits.Cores = 0; !running || limits == (Limits{}) { // their number asks for no look
		g.thaw(group, limits.Pids)
		return 0
	}
	pause := slowest
	if limits.CPUTime > 0 {
		pause = g.lookAtCPU(limits.CPUTime)
	}
	usage, err := g.measure(group)
	if err != nil {
		return max(pause, fastest) // the next look may tell more
	}
	if limits.MemoryBytes > 0 {
		pause = min(pause, g.lookAtMemory(usage, limits.MemoryBytes))
	}
	if limits.Pids > 0 {
		pause = min(pause, g.lookAtTasks(usage, limits.Pids, group))
	}
	return max(pause, fastest)
}

// measure is [Guard.Usage] with the tasks of programs alone where they can be
// told apart, and keeps the peak.
func (g *Guard) measure(group *pidsGroup) (Usage, error) {
	usage, err := g.Usage()
	switch {
	case group != nil:
		if n, groupErr := group.current(); groupErr == nil {
			usage.Tasks, err = n, nil
		}
	case err != nil:
		var all []proctree.Process
		all, err = proctree.List(g.cfg.Proc)
		usage = Usage{}
		for _, p := range proctree.Descendants(all, os.Getpid()) {
			usage.Tasks += p.Threads
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peak.Memory = max(g.peak.Memory, usage.Memory)
	g.peak.Tasks = max(g.peak.Tasks, usage.Tasks)
	return usage, err
}

// Margin is how far below limit the guard acts: a sixteenth, between 8 MiB and
// 64 MiB, and never more than a quarter.
func Margin(limit int64) int64 {
	return min(max(limit/16, 8<<20), 64<<20, limit/4)
}

// lookAtMemory ends the largest program when the box is about to reach limit.
func (g *Guard) lookAtMemory(usage Usage, limit int64) time.Duration {
	trigger := limit - Margin(limit)
	if left := trigger - usage.Memory; left > 0 {
		return time.Duration(float64(left) / memoryRate * float64(time.Second))
	}
	if time.Since(g.acted) < settle {
		return fastest // what was ended is still giving its memory back
	}
	all, err := proctree.List(g.cfg.Proc)
	if err != nil {
		return slowest
	}
	var largest proctree.Process
	for _, p := range proctree.Descendants(all, os.Getpid()) {
		if p.Resident > largest.Resident {
			largest = p
		}
	}
	// Where programs hold little, files in memory hold the rest, and ending a
	// program would bring nothing back.
	if largest.Resident < limit/32 {
		return slowest
	}
	g.mu.Lock()
	peak := g.peak.Memory
	g.mu.Unlock()
	g.record(bulkhead.End{
		Cause: bulkhead.CauseMemoryLimit, At: time.Now(), Limit: limit, Peak: peak,
		Detail: fmt.Sprintf("the sandbox used %d MiB of its %d MiB of memory; its largest process, %s (pid %d, %d MiB), was ended",
			usage.Memory>>20, limit>>20, largest.Name, largest.Pid, largest.Resident>>20),
	}, all, largest.Pid)
	_ = syscall.Kill(largest.Pid, syscall.SIGKILL) // it may have ended
	g.acted = time.Now()
	g.cfg.Log.Warn("memory limit: ended the largest process", slog.Int("pid", largest.Pid), slog.String("name", largest.Name),
		slog.Int64("resident", largest.Resident), slog.Int64("used", usage.Memory), slog.Int64("limit", limit))
	return fastest
}

// maxStrikes is how many trees are ended one by one before everything is.
const maxStrikes = 3

// lookAtTasks ends the tree with the most tasks when the box has no task left.
// A group stays frozen from then on until the tasks are gone.
func (g *Guard) lookAtTasks(usage Usage, limit int64, group *pidsGroup) time.Duration {
	if left := limit - usage.Tasks; left > 0 {
		g.thaw(group, limit)
		g.strikes = 0
		if group != nil {
			return slowest // the kernel holds the limit; this only reports it
		}
		return time.Duration(float64(left) / taskRate * float64(time.Second))
	}
	if time.Since(g.acted) < settle {
		return fastest // what was ended is still on its way out
	}
	g.freeze(group)
	all, err := proctree.List(g.cfg.Proc)
	if err != nil {
		return slowest
	}
	leader, tasks, trees := largestTree(all)
	g.mu.Lock()
	end := bulkhead.End{Cause: bulkhead.CausePidsLimit, At: time.Now(), Limit: limit, Peak: g.peak.Tasks}
	g.mu.Unlock()
	// Programs that keep leaving their session are a tree each, so after a few
	// trees everything goes.
	g.strikes++
	var ended int
	if g.strikes > maxStrikes {
		end.Detail = fmt.Sprintf("the sandbox used all its %d processes and threads, in %d trees; all were ended", limit, trees)
		g.record(end, all, pidsOf(proctree.Descendants(all, os.Getpid()))...)
		ended = proctree.KillAll(g.cfg.Proc)
	} else {
		end.Detail = fmt.Sprintf("the sandbox used all its %d processes and threads, %d of them in the tree of pid %d, which was ended", limit, tasks, leader)
		g.record(end, all, append(pidsOf(proctree.Members(all, leader)), leader)...)
		ended = proctree.Kill(g.cfg.Proc, leader)
	}
	g.acted = time.Now()
	g.cfg.Log.Warn("pids limit: ended a tree", slog.Int("pid", leader), slog.Int64("tasks", usage.Tasks),
		slog.Int64("limit", limit), slog.Int("ended", ended))
	return fastest
}

// freeze lets the group start no task until it thaws.
func (g *Guard) freeze(group *pidsGroup) {
	if group == nil {
		return
	}
	g.mu.Lock()
	if g.thawed == nil {
		g.thawed = make(chan struct{})
	}
	g.mu.Unlock()
	if err := group.freeze(); err != nil {
		g.cfg.Log.Warn("pids group cannot be frozen", slog.Any("error", err))
	}
}

// thaw lets a frozen group start tasks again.
func (g *Guard) thaw(group *pidsGroup, limit int64) {
	g.mu.Lock()
	frozen := g.thawed != nil
	g.mu.Unlock()
	if group == nil || !frozen {
		return
	}
	if err := group.setMax(limit); err != nil {
		g.cfg.Log.Error("pids limit cannot be set again", slog.Any("error", err))
		return // the next look tries again
	}
	g.mu.Lock()
	close(g.thawed)
	g.thawed = nil
	g.mu.Unlock()
}

// largestTree returns the leader of the tree with the most tasks among the
// caller's descendants, its number of tasks, and how many trees there are. A
// process in the caller's own session is in the tree of the child it comes from.
func largestTree(all []proctree.Process) (leader int, tasks int64, trees int) {
	self := os.Getpid()
	parents := make(map[int]int, len(all))
	own := 0
	for _, p := range all {
		parents[p.Pid] = p.Parent
		if p.Pid == self {
			own = p.Session
		}
	}
	sums := make(map[int]int64)
	for _, p := range proctree.Descendants(all, self) {
		root := p.Session
		if root == own {
			for root = p.Pid; parents[root] != self; root = parents[root] {
			}
		}
		sums[root] += p.Threads
	}
	for root, n := range sums {
		if n > tasks {
			leader, tasks = root, n
		}
	}
	return leader, tasks, len(sums)
}

func pidsOf(all []proctree.Process) []int {
	list := make([]int, 0, len(all))
	for _, p := range all {
		list = append(list, p.Pid)
	}
	return list
}

package bulkhead

import (
	"strconv"
	"time"
)

// Cause says why a program or a sandbox ended. The set is closed and is the
// same in the API, the CLI, the log and the metrics.
type Cause string

// The causes.
const (
	// CauseExited: it ended by itself; the exit code says how.
	CauseExited Cause = "exited"
	// CauseTimeLimit: it ran longer than it was allowed to.
	CauseTimeLimit Cause = "time_limit"
	// CauseMemoryLimit: it needed more memory than its limit.
	CauseMemoryLimit Cause = "memory_limit"
	// CausePidsLimit: it needed more processes or threads than its limit.
	CausePidsLimit Cause = "pids_limit"
	// CauseDiskLimit: it wrote more than its disk holds.
	CauseDiskLimit Cause = "disk_limit"
	// CauseOutputLimit: it printed more than its output limit.
	CauseOutputLimit Cause = "output_limit"
	// CauseKilled: its owner, or an operator, ended it.
	CauseKilled Cause = "killed"
	// CauseExpired: the sandbox reached the end of its time to live.
	CauseExpired Cause = "expired"
	// CauseCrashed: the box or the runtime under it died by itself.
	CauseCrashed Cause = "crashed"
)

// Causes lists every cause, for documents and checks.
func Causes() []Cause {
	return []Cause{
		CauseExited, CauseTimeLimit, CauseMemoryLimit, CausePidsLimit, CauseDiskLimit,
		CauseOutputLimit, CauseKilled, CauseExpired, CauseCrashed,
	}
}

// End is how a program or sandbox ended, with the evidence.
type End struct {
	// Cause is the reason.
	Cause Cause `json:"cause"`
	// At is when it was noticed.
	At time.Time `json:"at"`
	// ExitCode is the program's exit code, 128+n after signal n.
	ExitCode int `json:"exitCode,omitempty"`
	// Limit is the limit that was reached, in the unit of the cause: bytes for
	// memory, disk and output, tasks for pids, milliseconds for time. 0 if none.
	Limit int64 `json:"limit,omitempty"`
	// Peak is the highest value measured, in the unit of Limit. 0 if not known.
	Peak int64 `json:"peak,omitempty"`
	// Detail is one sentence for a person, safe for a tenant to read.
	Detail string `json:"detail,omitempty"`
}

// String returns the cause and its evidence in one line.
func (e End) String() string {
	s := string(e.Cause)
	if e.Cause == CauseExited {
		s += " " + strconv.Itoa(e.ExitCode)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Package boxrpc is the contract between the host and the process in the box:
// the ports it serves, the /init call that gives a box its identity, and, in the
// packages below it, the generated messages of E2B's process and filesystem
// services.
//
// Nothing here does I/O. The host must treat whatever a box answers as hostile.
package boxrpc

import "time"

// The ports that every box serves, fixed by E2B's protocol.
const (
	// EnvdPort serves processes, files and /init.
	EnvdPort = 49983
	// InterpreterPort serves /execute and /contexts.
	InterpreterPort = 49999
)

// EnvdVersion is the protocol version reported to the SDKs. 0.6.4 is the
// version whose features the SDKs gate on last (filesystem watch on network
// mounts); every gate up to it is served.
const EnvdVersion = "0.6.4"

// GuestDir is where envd and its files are mounted, read-only, in every box.
const GuestDir = "/opt/bulkhead"

// Init binds a box to its sandbox: it is POSTed as JSON to /init on [EnvdPort]
// as soon as the box is there, with names, token and seeds that nobody has yet,
// and once more when it is leased to a request that wants something else, such as
// variables. The answer is 204.
type Init struct {
	// SandboxID and TemplateID are shown in the box, as E2B_SANDBOX_ID and
	// E2B_TEMPLATE_ID and in files under /run/e2b.
	SandboxID  string `json:"sandboxID"`
	TemplateID string `json:"templateID"`
	// Hostname and MachineID become those of the box. MachineID is 32 hex digits.
	Hostname  string `json:"hostname"`
	MachineID string `json:"machineID"`
	// Env is set in every process started from now on.
	Env map[string]string `json:"envVars,omitempty"`
	// AccessToken, when not empty, is asked of every call but /health from now on,
	// in the header X-Access-Token.
	AccessToken string `json:"accessToken,omitempty"`
	// DefaultUser and DefaultWorkdir are those of a process that names none. An
	// empty DefaultWorkdir means the user's home.
	DefaultUser    string `json:"defaultUser,omitempty"`
	DefaultWorkdir string `json:"defaultWorkdir,omitempty"`
	// Nameservers become the box's /etc/resolv.conf, in this order. Empty leaves
	// the file alone.
	Nameservers []string `json:"nameservers,omitempty"`
	// Timestamp is the host's clock at the call.
	Timestamp time.Time `json:"timestamp"`
	// Seed is 32 random bytes of this box's own, with which every random number
	// generator that a snapshot may have copied is seeded anew.
	Seed []byte `json:"seed,omitempty"`
	// MemoryBytes, Pids, OutputBytes, OutputBytesPerSecond and CPUSeconds are the limits that the box keeps
	// to by itself, so that one program ends before the box does. The host enforces
	// its own on top. 0 means none.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	Pids        int64 `json:"pids,omitempty"`
	OutputBytes int64 `json:"outputBytes,omitempty"`
	CPUSeconds  int64 `json:"cpuSeconds,omitempty"`
	// OutputBytesPerSecond is how fast all programs print together.
	OutputBytesPerSecond int64 `json:"outputBytesPerSecond,omitempty"`
	// CPUs is how many processors programs are told of, the limit rounded up.
	CPUs int64 `json:"cpus,omitempty"`
}

// Limits changes those of a box that runs: it is POSTed as JSON to /limits on
// [EnvdPort], with the box's token. The answer is 204. Programs that run are
// bounded by the new ones too. 0 means none; 0 CPUs means as before.
type Limits struct {
	MemoryBytes int64 `json:"memoryBytes"`
	Pids        int64 `json:"pids"`
	CPUs        int64 `json:"cpus,omitempty"`
	// OutputBytesPerSecond is as in [Init].
	OutputBytesPerSecond int64 `json:"outputBytesPerSecond"`
}

// The variables that the host sets for envd itself when it makes a box, before
// any identity is known; a snapshot is taken after envd acted on them.
const (
	// EnvInterpreter, when "1", makes envd serve the code interpreter on
	// [InterpreterPort] and wait for its Python kernel before it is ready.
	EnvInterpreter = "BULKHEAD_INTERPRETER"
	// EnvPreload is a JSON list of what the Python kernel imports before it is
	// ready. Without it there is a default.
	EnvPreload = "BULKHEAD_PRELOAD"
	// EnvWarmup is code that runs once before envd is ready: Python, after the
	// imports, in the first context of the interpreter; a script for /bin/sh -e
	// where there is no interpreter. envd ends if it fails.
	EnvWarmup = "BULKHEAD_WARMUP"
	// EnvUser and EnvWorkdir are the user that kernels run as and the directory
	// they begin in. Without them it is "user" and its home.
	EnvUser    = "BULKHEAD_USER"
	EnvWorkdir = "BULKHEAD_WORKDIR"
)

// What the lines of envd's log begin with that the host reads before it takes a
// snapshot; what failed follows. Later nothing in a log is believed.
const (
	// LogSkipped: an import of [EnvPreload] failed and was passed over.
	LogSkipped = "preload skipped: "
	// LogWarmupFailed: the code of [EnvWarmup] failed.
	LogWarmupFailed = "warm-up failed: "
)

// WarmupTime bounds the code of [EnvWarmup].
const WarmupTime = 5 * time.Minute

// Package config is every option of the server, in one struct.
//
// An option is set by a flag, else by an environment variable, else by the file
// named with --config, else it has its default. It is the only package, with
// cmd, that reads the environment. The reference in docs/ is generated from the
// struct's tags.
package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// DefaultData is the default of --data.
const DefaultData = "/var/lib/bulkhead"

// Config is what `bulkhead serve` can be told.
type Config struct {
	// Data is the folder that holds everything that must survive a restart.
	Data string `name:"data" env:"BULKHEAD_DATA" default:"/var/lib/bulkhead" help:"Folder for templates, snapshots, the database, keys and certificates."`
	// Database is where tenants, keys, sandboxes, usage and the audit log are kept.
	Database string `name:"database" env:"BULKHEAD_DATABASE" placeholder:"URL" help:"Where tenants, keys, sandboxes, usage, the audit log and scripts are kept: postgres://USER:PASSWORD@HOST/NAME, or a file; bulkhead.db in --data if empty. A password is better given by the environment than by the flag."`
	// Prices make costs of usage.
	Prices map[string]float64 `name:"price" env:"BULKHEAD_PRICES" help:"What usage costs, as sandbox-second=N, cpu-second=N, gb-second=N (memory in use) and egress-gb=N; free if empty."`
	// Run is the folder for what lives no longer than the host's uptime.
	Run string `name:"run" env:"BULKHEAD_RUN" default:"/run/bulkhead" help:"Folder for network namespaces and the state of boxes; lost when the host restarts, as they are."`

	// Listen and ListenTLS are where the API and the data plane are served.
	Listen    string `name:"listen" env:"BULKHEAD_LISTEN" default:"127.0.0.1:8080" help:"Address for HTTP; empty for none."`
	ListenTLS string `name:"listen-tls" env:"BULKHEAD_LISTEN_TLS" default:"127.0.0.1:8443" help:"Address for HTTPS; empty for none."`
	// Domain is the name under which sandboxes' ports are reached.
	Domain string `name:"domain" env:"BULKHEAD_DOMAIN" default:"bulkhead.localhost" help:"Domain whose PORT-SANDBOX.DOMAIN names lead to sandboxes' ports."`
	// Cert and KeyFile replace the certificate of our own authority.
	Cert    string `name:"tls-cert" env:"BULKHEAD_TLS_CERT" type:"path" help:"Certificate file for HTTPS, for DOMAIN and *.DOMAIN; made and renewed by ourselves if empty."`
	KeyFile string `name:"tls-key" env:"BULKHEAD_TLS_KEY" type:"path" help:"Key file of --tls-cert."`

	// Driver makes the boxes.
	Driver string `name:"driver" env:"BULKHEAD_DRIVER" enum:"gvisor,runc" default:"gvisor" help:"What isolates sandboxes: gvisor, or runc (faster, and the host's kernel is all that stands between)."`
	// Runc is the program that the runc driver calls.
	Runc string `name:"runc" env:"BULKHEAD_RUNC" default:"runc" help:"runc program, for --driver=runc."`

	// Subnet is where boxes get their addresses from.
	Subnet netip.Prefix `name:"subnet" env:"BULKHEAD_SUBNET" default:"10.213.0.0/16" help:"Private network for sandboxes; 4 addresses each."`
	// Nameservers are what boxes resolve names with.
	Nameservers []netip.Addr `name:"nameserver" env:"BULKHEAD_NAMESERVERS" help:"Name servers for sandboxes; those of the host's resolv.conf if empty."`
	// OpenPrivate, DenyEgress and MaxConns bound what boxes reach.
	OpenPrivate []netip.Prefix `name:"open-private" env:"BULKHEAD_OPEN_PRIVATE" help:"Private prefixes that sandboxes may reach as if they were public; the rest is closed to them, whatever they ask for."`
	DenyEgress  []netip.Prefix `name:"deny-egress" env:"BULKHEAD_DENY_EGRESS" help:"Public prefixes that no sandbox reaches."`
	MaxConns    int            `name:"max-connections" env:"BULKHEAD_MAX_CONNECTIONS" default:"4096" help:"Connections that one sandbox may have open to the outside at most, whatever its limits say; 1 to 1048576."`

	// MaxSandboxes, MaxTTL and the reserves bound what the node takes on.
	MaxSandboxes  int           `name:"max-sandboxes" env:"BULKHEAD_MAX_SANDBOXES" default:"500" help:"Sandboxes that may live at once; 1 to 4000."`
	MaxTTL        time.Duration `name:"max-ttl" env:"BULKHEAD_MAX_TTL" default:"24h" help:"Longest time to live that a sandbox may be given."`
	ReserveMemory int64         `name:"reserve-memory-mb" env:"BULKHEAD_RESERVE_MEMORY_MB" default:"512" help:"Memory, in MiB, of the host that sandboxes are not promised: for the server and others."`
	ReserveDisk   int64         `name:"reserve-disk-mb" env:"BULKHEAD_RESERVE_DISK_MB" default:"2048" help:"Disk, in MiB, under --data that sandboxes are not promised."`
	MaxStreams    int           `name:"max-streams" env:"BULKHEAD_MAX_STREAMS" default:"1000" help:"Requests that one sandbox may serve at once."`

	// What the host promises: see docs/quota.md.
	CPUOvercommit float64       `name:"cpu-overcommit" env:"BULKHEAD_CPU_OVERCOMMIT" default:"256" help:"Cores promised to sandboxes for each core of the host, which those that work share by weight; 0.1 to 1000."`
	BookShare     float64       `name:"book-share" env:"BULKHEAD_BOOK_SHARE" default:"0.15" help:"Least part of its CPU and memory that stays booked for a sandbox while it uses less, and a third of that of its disk; the rest is lent to others. 1 books everything and lends nothing."`
	MaxStall      float64       `name:"max-memory-stall" env:"BULKHEAD_MAX_MEMORY_STALL" default:"20" help:"Percent of the last ten seconds in which all work may have waited for memory (PSI) before no sandbox is admitted; 1 to 100."`
	Protect       bool          `name:"protect" env:"BULKHEAD_PROTECT" default:"true" negatable:"" help:"Give the server a floor of CPU above all sandboxes, and let the kernel kill them before it when the host is out of memory."`
	CreateWait    time.Duration `name:"create-wait" env:"BULKHEAD_CREATE_WAIT" default:"2s" help:"How long a request for a sandbox waits for a place on a full host, unless it says itself; 0 to 10m."`

	Pools `embed:""`

	// Retention is how long an ended sandbox can be asked about.
	Retention time.Duration `name:"retention" env:"BULKHEAD_RETENTION" default:"168h" help:"How long it is remembered how a sandbox ended."`
	// KeepBoxes leaves sandboxes running when the server ends, for the next one.
	KeepBoxes bool `name:"keep-sandboxes" env:"BULKHEAD_KEEP_SANDBOXES" help:"Leave sandboxes running when the server is stopped; the next one takes them over. Without it a clean stop ends them."`

	// The memory guard of scripts and sandboxes, under the names that its users know.
	GuardEnabled  bool    `name:"memory-guard" env:"MEMORY_GUARD_ENABLED" default:"true" negatable:"" help:"Admit scripts and sandboxes by the memory that is left."`
	GuardMax      float64 `name:"memory-guard-max" env:"MEMORY_GUARD_MAX_PERCENT" default:"0.80" help:"Fraction of the memory that scripts and new sandboxes may fill; 0 to 1."`
	GuardWarning  float64 `name:"memory-guard-warning" env:"MEMORY_GUARD_WARNING_PERCENT" default:"0.70" help:"Fraction from which fewer scripts run, and fewer sandboxes are made, at once."`
	GuardCritical float64 `name:"memory-guard-critical" env:"MEMORY_GUARD_CRITICAL_PERCENT" default:"0.85" help:"Fraction above which new scripts and sandboxes are refused at once."`
	GuardInterval int     `name:"memory-guard-interval" env:"MEMORY_GUARD_CHECK_INTERVAL_SEC" default:"5" help:"Seconds between full checks; memory itself is read every 20 to 80 ms."`
	GuardEstimate int64   `name:"memory-guard-estimate-mb" env:"MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB" default:"200" help:"Memory, in MiB, of a script that nothing is known of."`
	MaxConcurrent int     `name:"max-concurrent-scripts" env:"MAX_CONCURRENT" default:"10" help:"Scripts at once when there is memory enough; -1 lets memory alone decide."`
	MaxResult     int64   `name:"max-script-result" env:"MAX_RESULT_SIZE" default:"5242880" help:"Bytes of a script's result."`

	// ScriptFetch opens hosts to scripts' fetch.
	ScriptFetch []string `name:"script-fetch" env:"SCRIPT_FETCH" placeholder:"HOST" help:"What scripts may fetch: domains such as api.example.com or *.example.com, addresses and prefixes; 0.0.0.0/0 is everything public. TENANT=HOST opens it to that tenant only. Nothing if empty."`

	// LogLevel and LogFormat shape the log on standard error.
	LogLevel  string `name:"log-level" env:"BULKHEAD_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat string `name:"log-format" env:"BULKHEAD_LOG_FORMAT" enum:"text,json" default:"text" help:"Form of the log: text or json."`
}

// Validate checks what the tags cannot, and fills what depends on the host. The
// error is an *[bulkhead.Error] with CodeInvalid that names option, value and
// range.
func (c *Config) Validate() error {
	invalid := func(format string, args ...any) error { return bulkhead.Errorf(bulkhead.CodeInvalid, format, args...) }
	var err error
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return fmt.Errorf("find --data: %w", err)
	}
	if c.Run, err = filepath.Abs(c.Run); err != nil {
		return fmt.Errorf("find --run: %w", err)
	}
	switch {
	case c.Listen == "" && c.ListenTLS == "":
		return invalid("--listen and --listen-tls are both empty; one is needed")
	case c.MaxSandboxes < 1 || c.MaxSandboxes > 4000:
		return invalid("--max-sandboxes is %d; it must be between 1 and 4000", c.MaxSandboxes)
	case c.MaxTTL < time.Second || c.MaxTTL > 365*24*time.Hour:
		return invalid("--max-ttl is %s; it must be between 1s and 8760h", c.MaxTTL)
	case c.ReserveMemory < 0 || c.ReserveDisk < 0:
		return invalid("--reserve-memory-mb is %d and --reserve-disk-mb is %d; neither may be negative", c.ReserveMemory, c.ReserveDisk)
	case !(c.CPUOvercommit >= 0.1 && c.CPUOvercommit <= 1000):
		return invalid("--cpu-overcommit is %v; it must be between 0.1 and 1000", c.CPUOvercommit)
	case !(c.BookShare >= 0.01 && c.BookShare <= 1):
		return invalid("--book-share is %v; it must be between 0.01 and 1", c.BookShare)
	case !(c.MaxStall >= 1 && c.MaxStall <= 100):
		return invalid("--max-memory-stall is %v; it must be between 1 and 100", c.MaxStall)
	case c.CreateWait < 0 || c.CreateWait > 10*time.Minute:
		return invalid("--create-wait is %s; it must be between 0 and 10m", c.CreateWait)
	case c.MaxStreams < 1 || c.MaxStreams > 100_000:
		return invalid("--max-streams is %d; it must be between 1 and 100000", c.MaxStreams)
	case c.Retention < time.Minute:
		return invalid("--retention is %s; it must be at least 1m", c.Retention)
	case (c.Cert == "") != (c.KeyFile == ""):
		return invalid("--tls-cert and --tls-key go together; one of them is empty")
	case !c.Subnet.Addr().Is4() || !c.Subnet.Addr().IsPrivate() || c.Subnet.Bits() > 24:
		return invalid("--subnet is %s; it must be a private IPv4 network of /24 or larger", c.Subnet)
	case c.MaxConns < 1 || c.MaxConns > 1<<20:
		return invalid("--max-connections is %d; it must be between 1 and %d", c.MaxConns, 1<<20)
	}
	if err := c.Pools.validate(); err != nil {
		return err
	}
	if _, err := c.Guard(); err != nil {
		return err
	}
	if c.RefillParallel == 0 {
		c.RefillParallel = max(1, runtime.NumCPU()/2)
	}
	if c.Database == "" {
		c.Database = "sqlite://" + filepath.Join(c.Data, "bulkhead.db")
	}
	_, err = c.Targets()
	_, err2 := c.PriceTable()
	return errors.Join(err, err2)
}

// PriceTable returns what --price says.
func (c *Config) PriceTable() (bulkhead.Prices, error) {
	var p bulkhead.Prices
	fields := map[string]*float64{
		"sandbox-second": &p.SandboxSecond, "cpu-second": &p.CPUSecond, "gb-second": &p.GBSecond, "egress-gb": &p.EgressGB,
	}
	for name, price := range c.Prices {
		field, ok := fields[name]
		switch {
		case !ok:
			return p, bulkhead.Errorf(bulkhead.CodeInvalid, "--price %s: it must be %s", name,
				strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		case !(price >= 0 && price <= 1e6):
			return p, bulkhead.Errorf(bulkhead.CodeInvalid, "--price %s=%v: it must be between 0 and 1000000", name, price)
		}
		*field = price
	}
	return p, nil
}

// Targets returns what --warm says, by template.
func (c *Config) Targets() (map[string]pool.Target, error) {
	out := make(map[string]pool.Target, len(c.Warm))
	for name, v := range c.Warm {
		var t pool.Target
		warm, cold, both := strings.Cut(v, "/")
		_, err := fmt.Sscanf(warm, "%d", &t.Warm)
		if both {
			_, err2 := fmt.Sscanf(cold, "%d", &t.Cold)
			err = errors.Join(err, err2)
		}
		if err != nil || t.Warm < 0 || t.Warm > 1000 || t.Cold < 0 || t.Cold > 1000 {
			return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "--warm %s=%s: it must be WARM or WARM/COLD, each between 0 and 1000", name, v)
		}
		t.Why = "pinned by --warm"
		out[name] = t
	}
	return out, nil
}

package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/client"
	"github.com/bulkheadhq/bulkhead/internal/script/scriptcli"
)

// Env is what the command line is given by its process. Zero fields mean an
// empty input, no output, and nothing known of a server.
type Env struct {
	// Stdin, Stdout and Stderr are the process's streams. Where they are
	// terminals, output is coloured and shells are raw.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// URL and Key are those of the environment (BULKHEAD_URL, BULKHEAD_API_KEY).
	URL, Key string
	// Credentials is the path of the file that a server on this host writes.
	Credentials string
	// NoColor says that NO_COLOR is set.
	NoColor bool
	// Term is the type of the terminal (TERM), for shells in a sandbox.
	Term string
	// Templates builds templates on this host; nil where that is not possible.
	Templates Templates
	// Version is printed by --version.
	Version string
	// Options are given to the parser after our own.
	Options []kong.Option
}

// Flags are common to all commands.
type Flags struct {
	URL     string           `name:"url" placeholder:"URL" help:"Server address. Default: $$BULKHEAD_URL, else the server on this host."`
	Key     string           `name:"key" placeholder:"KEY" help:"API key. Default: $$BULKHEAD_API_KEY, else that of the server on this host."`
	JSON    bool             `name:"json" help:"Print JSON for programs instead of tables."`
	Version kong.VersionFlag `name:"version" help:"Print the version and exit."`
}

// CommonFlags returns f. Embedding Flags makes a struct a [Grammar].
func (f *Flags) CommonFlags() *Flags { return f }

// Commands are the commands of this package, to be embedded in a grammar.
type Commands struct {
	Run      RunCmd      `cmd:"" help:"Run code in a sandbox."`
	Sandbox  SandboxCmd  `cmd:"" aliases:"sb" help:"List, enter, copy to and from, and end sandboxes."`
	Key      KeyCmd      `cmd:"" help:"List, make, rotate and revoke API keys."`
	Tenant   TenantCmd   `cmd:"" help:"List, make, change and remove tenants."`
	Tier     TierCmd     `cmd:"" help:"List, make, change and remove tiers, which are named quotas."`
	Usage    UsageCmd    `cmd:"" help:"Show what was used, and what it costs."`
	Audit    AuditCmd    `cmd:"" help:"Show who did what."`
	Template TemplateCmd `cmd:"" help:"List, build and remove templates."`
	Quota    QuotaCmd    `cmd:"" help:"Show what a tenant may use, and whether more would fit."`
	Pool     PoolCmd     `cmd:"" help:"Show and set how many boxes wait ready."`

	Script scriptcli.Cmd `cmd:"" help:"Run, store, list and remove scripts: JavaScript in microseconds, without a sandbox."`
}

// Grammar is a pointer to a struct that embeds [Flags] and [Commands] and may
// have further commands. Their Run methods may ask for a context.Context, an
// *[Env] and an *[App].
type Grammar interface{ CommonFlags() *Flags }

// App is one invocation, as the Run methods of commands get it.
type App struct {
	env   *Env
	flags *Flags
}

// JSON reports whether the output is for programs.
func (a *App) JSON() bool { return a.flags.JSON }

// Main parses args, runs the command they name and returns the exit code. It
// prints the error, if any.
func Main(ctx context.Context, env *Env, grammar Grammar, args []string) int {
	a := &App{env: env.withDefaults(), flags: grammar.CommonFlags()}
	exited := false
	parser, err := kong.New(grammar, append([]kong.Option{
		kong.Name("bulkhead"),
		kong.Description("Run unreviewed code in sandboxes with hard limits."),
		kong.Vars{"version": a.env.Version},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(a.env.Stdout, a.env.Stderr),
		kong.Exit(func(int) { exited = true }), // after --help and --version
		kong.Bind(a, a.env),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.BindTo(a, (*scriptcli.Opener)(nil)),
	}, a.env.Options...)...)
	if err != nil {
		return a.report(fmt.Errorf("command grammar: %w", err))
	}
	parsed, err := parser.Parse(args)
	switch {
	case exited:
		return exitOK
	case err != nil:
		return a.report(usageError{err: err, hint: "run 'bulkhead " + helpPath(parsed, err) + "--help'"})
	}
	return a.report(parsed.Run())
}

// helpPath is the command that a parse got to, with a space behind it.
func helpPath(parsed *kong.Context, err error) string {
	var pe *kong.ParseError
	if parsed == nil && errors.As(err, &pe) {
		parsed = pe.Context
	}
	if parsed == nil {
		return ""
	}
	var words strings.Builder
	for _, p := range parsed.Path {
		if p.Command != nil {
			words.WriteString(p.Command.Name + " ")
		}
	}
	return words.String()
}

// withDefaults returns a copy of env whose streams are not nil.
func (env *Env) withDefaults() *Env {
	e := *env
	if e.Stdin == nil {
		e.Stdin = strings.NewReader("")
	}
	if e.Stdout == nil {
		e.Stdout = io.Discard
	}
	if e.Stderr == nil {
		e.Stderr = io.Discard
	}
	if e.Version == "" {
		e.Version = "unknown"
	}
	return &e
}

// Credentials is the content of the file that a server writes for the command
// line on its own host.
type Credentials struct {
	URL    string `json:"url"`
	APIKey string `json:"apiKey"`
	// CAFile, when set, holds the certificates that the server's is signed by.
	CAFile string `json:"caFile,omitempty"`
}

// server is where a command's requests go.
type server struct {
	url, key string
	http     *http.Client // nil for the default
}

// server returns the server that the flags, the environment or the credentials
// file name, in this order.
func (a *App) server() (server, error) {
	s := server{url: cmp.Or(a.flags.URL, a.env.URL), key: cmp.Or(a.flags.Key, a.env.Key)}
	var creds Credentials
	if s.url == "" || s.key == "" {
		var err error
		creds, err = readCredentials(a.env.Credentials)
		if err != nil && s.url == "" {
			return s, err
		}
	}
	s.url = cmp.Or(s.url, creds.URL)
	own := strings.TrimRight(s.url, "/") == strings.TrimRight(creds.URL, "/")
	if s.key == "" && own {
		s.key = creds.APIKey
	}
	if own && creds.CAFile != "" {
		var err error
		if s.http, err = trusting(creds.CAFile); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Client returns a client for the server that the flags, the environment or the
// credentials file name, in this order. It sends nothing.
func (a *App) Client() (*client.Client, error) {
	s, err := a.server()
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{
		BaseURL: s.url, APIKey: s.key, HTTPClient: s.http, UserAgent: "bulkhead-cli/" + a.env.Version,
	})
	if err != nil {
		return nil, usageError{err: fmt.Errorf("server address %q: %s", s.url, bulkhead.Message(err)), hint: "it looks like http://127.0.0.1:3000"}
	}
	return c, nil
}

// ScriptSession returns what the commands on scripts work with.
func (a *App) ScriptSession() (*scriptcli.Session, error) {
	s, err := a.server()
	if err != nil {
		return nil, err
	}
	base := http.DefaultTransport
	if s.http != nil {
		base = s.http.Transport
	}
	return &scriptcli.Session{
		Client: &http.Client{Transport: keyed{base: base, key: s.key}}, BaseURL: strings.TrimRight(s.url, "/"),
		Stdin: a.env.Stdin, Stdout: a.env.Stdout, Stderr: a.env.Stderr, JSON: a.flags.JSON,
	}, nil
}

// keyed adds the API key to requests.
type keyed struct {
	base http.RoundTripper
	key  string
}

// RoundTrip sends a copy of the request with the key.
func (k keyed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-API-KEY", k.key)
	return k.base.RoundTrip(r)
}

// errNoServer is that nobody said where the server is.
var errNoServer = errors.New("no server is known")

// readCredentials reads the file at path.
func readCredentials(path string) (Credentials, error) {
	const hint = "start one with 'bulkhead serve', or give --url and --key, or set BULKHEAD_URL and BULKHEAD_API_KEY"
	if path == "" {
		return Credentials{}, usageError{err: errNoServer, hint: hint}
	}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Credentials{}, usageError{err: errNoServer, hint: hint}
	case err != nil:
		return Credentials{}, usageError{err: fmt.Errorf("read credentials: %w", err), hint: "run as the server's user, or set BULKHEAD_URL and BULKHEAD_API_KEY"}
	}
	var c Credentials
	if err := json.Unmarshal(raw, &c); err != nil || c.URL == "" {
		return Credentials{}, usageError{err: fmt.Errorf("credentials file %s holds no server address", path), hint: "restart 'bulkhead serve' to write it anew"}
	}
	return c, nil
}

// trusting is an HTTP client that trusts the certificates in a file, too.
func trusting(caFile string) (*http.Client, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no certificate", caFile)
	}
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 100,
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}, nil
}

// interruptible is ctx, canceled by ^C and SIGTERM.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

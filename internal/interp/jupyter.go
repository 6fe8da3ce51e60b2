package interp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/google/uuid"
)

// jupyter is a kernel of any language behind the Jupyter messaging protocol. Three
// goroutines read its sockets; one execution at a time takes what they read.
type jupyter struct {
	proc    *process
	lang    language
	grace   time.Duration
	log     *slog.Logger
	key     string
	session string
	byMsg   bool  // it is interrupted by a message
	limit   int64 // bytes of a message, and of messages that wait
	done    chan struct{}
	noise   tail

	shell, control, iopub, stdin *channel

	turn sync.Mutex // guards run, and is held while its sink takes an event
	run  *jupyterRun

	mu   sync.Mutex
	bind *binding // what Rebind left for the next execution
	vars variables
}

var _ Kernel = (*jupyter)(nil)

// jupyterConfig is what a Jupyter kernel is started with.
type jupyterConfig struct {
	account account
	spec    kernelspec
	lang    language
	dir     string // working directory
	scratch string // of the server, for this kernel alone
	env     map[string]string
	limit   int64
	grace   time.Duration
	log     *slog.Logger
}

// connection is a Jupyter connection file.
type connection struct {
	Transport string `json:"transport"`
	IP        string `json:"ip"`
	Shell     int    `json:"shell_port"`
	IOPub     int    `json:"iopub_port"`
	Stdin     int    `json:"stdin_port"`
	Control   int    `json:"control_port"`
	Heartbeat int    `json:"hb_port"`
	Key       string `json:"key"`
	Scheme    string `json:"signature_scheme"`
	Name      string `json:"kernel_name"`
}

// newConnection chooses the addresses of a kernel's sockets.
func newConnection(spec kernelspec, scratch string) (connection, error) {
	c := connection{
		Transport: "ipc", IP: filepath.Join(scratch, "s"),
		Shell: 1, IOPub: 2, Stdin: 3, Control: 4, Heartbeat: 5,
		Key: rand.Text(), Scheme: "hmac-sha256", Name: spec.name,
	}
	if spec.ipc() {
		return c, nil
	}
	c.Transport, c.IP = "tcp", "127.0.0.1"
	for _, port := range []*int{&c.Shell, &c.IOPub, &c.Stdin, &c.Control, &c.Heartbeat} {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binds and is closed again
		if err != nil {
			return c, fmt.Errorf("find a port: %w", err)
		}
		defer l.Close()                      //nolint:revive // held until each has a port of its own
		*port = l.Addr().(*net.TCPAddr).Port //nolint:errcheck // a TCP listener's address
	}
	return c, nil
}

func (c connection) address(port int) (network, address string) {
	if c.Transport == "ipc" {
		return "unix", c.IP + "-" + strconv.Itoa(port)
	}
	return "tcp", net.JoinHostPort(c.IP, strconv.Itoa(port))
}

// startJupyter starts a kernel and waits until it answers and is heard.
func startJupyter(ctx context.Context, c jupyterConfig) (*jupyter, error) {
	conn, err := newConnection(c.spec, c.scratch)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.scratch, "connection.json")
	data, err := json.Marshal(conn)
	if err != nil {
		return nil, fmt.Errorf("write connection file: %w", err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, fmt.Errorf("write connection file: %w", err)
	}
	if err := os.Chown(file, c.account.uid, c.account.gid); err != nil {
		return nil, fmt.Errorf("write connection file: %w", err)
	}
	env := maps.Clone(c.env)
	maps.Copy(env, c.lang.env)
	maps.Copy(env, c.spec.Env)
	k := &jupyter{
		lang: c.lang, grace: c.grace, log: c.log, key: conn.Key, session: uuid.NewString(),
		byMsg: c.lang.message || c.spec.InterruptMode == "message",
		limit: c.limit, done: make(chan struct{}), vars: variables{lang: c.lang, base: env},
	}
	k.proc, err = c.account.start(command{
		argv: c.spec.argv(file), env: env, dir: c.dir, stdout: &k.noise, stderr: &k.noise,
	})
	if err != nil {
		return nil, err
	}
	go func() {
		<-k.proc.done
		_ = os.RemoveAll(c.scratch) // the box's own scratch space
		close(k.done)
	}()
	if err := k.connect(ctx, conn); err != nil {
		k.Close()
		return nil, fmt.Errorf("start %s kernel: %w: %s", c.spec.name, err, k.noise.String())
	}
	return k, nil
}

// connect opens the sockets and waits until the kernel answers on all of them.
func (k *jupyter) connect(ctx context.Context, conn connection) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-k.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, s := range []struct {
		channel **channel
		typ     zmq4.SocketType
		port    int
		id      string
	}{
		{&k.shell, zmq4.Dealer, conn.Shell, k.session},
		{&k.control, zmq4.Dealer, conn.Control, k.session},
		{&k.stdin, zmq4.Dealer, conn.Stdin, k.session}, // questions go to the one who asked
		{&k.iopub, zmq4.Sub, conn.IOPub, ""},
	} {
		network, address := conn.address(s.port)
		c, err := dial(ctx, network, address)
		if err != nil {
			return err
		}
		go func() {
			<-k.done
			_ = c.Close() // ends the reader of it
		}()
		release := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends the handshake
		*s.channel, err = openChannel(c, s.typ, s.id, k.limit)
		release()
		if err != nil {
			return err
		}
	}
	if err := k.iopub.send([]byte{1}); err != nil { // subscribe to everything
		return err
	}
	return k.greet(ctx)
}

// dial connects to a socket that the kernel is about to open.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to kernel: %w", err)
		case <-time.After(wait):
		}
	}
}

// greet asks the kernel for its name until the answer is also heard on iopub,
// which loses what is published before the subscription has come through. Then
// the readers take over.
func (k *jupyter) greet(ctx context.Context) error {
	heard, answered := make(chan struct{}, 1), make(chan struct{}, 1)
	mark := func(c chan struct{}) func(jupyterMessage) {
		return func(jupyterMessage) {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	go k.read(k.iopub, mark(heard), k.published)
	go k.read(k.shell, mark(answered), k.replied)
	go k.read(k.control, nil, func(jupyterMessage) {})
	go k.read(k.stdin, nil, k.asked)
	var iopub, shell bool
	for wait := 20 * time.Millisecond; !iopub || !shell; wait = min(2*wait, time.Second) {
		if err := k.ask(k.shell, "kernel_info_request", struct{}{}); err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		for waiting := true; waiting && (!iopub || !shell); {
			select {
			case <-heard:
				iopub = true
			case <-answered:
				shell = true
			case <-timer.C:
				waiting = false
			case <-ctx.Done():
				timer.Stop()
				return fmt.Errorf("wait for kernel: %w", context.Cause(ctx))
			}
		}
		timer.Stop()
	}
	return nil
}

// ask sends a request whose answer is known by its type.
func (k *jupyter) ask(c *channel, typ string, content any) error {
	frames, _, err := encodeMessage(k.key, k.session, typ, content)
	if err != nil {
		return err
	}
	return c.send(frames...)
}

// read takes the messages of one socket until it is closed. first, if not nil,
// also gets them, for the greeting.
func (k *jupyter) read(c *channel, first, take func(jupyterMessage)) {
	box := newMailbox(k.limit)
	go func() {
		defer box.close()
		for {
			frames, dropped, err := c.receive()
			if err != nil {
				k.proc.end() // without this socket it is of no use
				return
			}
			box.put(mail{frames: frames, dropped: dropped})
		}
	}()
	for {
		batch := box.take()
		if len(batch) == 0 {
			return
		}
		for _, m := range batch {
			k.open(m, first, take)
		}
		k.deliver(func(r *jupyterRun) { r.sink.Flush() })
	}
}

// open checks one message and hands it on.
func (k *jupyter) open(m mail, first, take func(jupyterMessage)) {
	if m.dropped > 0 {
		k.deliver(func(r *jupyterRun) { r.sink.Emit(Event{Kind: EventOversize, Size: m.dropped}) })
	}
	msg, err := decodeMessage(k.key, m.frames)
	if err != nil {
		if m.dropped == 0 {
			k.log.Warn("kernel sent what is no message", "error", err)
		}
		return
	}
	if first != nil {
		first(msg)
	}
	if msg.Parent != "" {
		take(msg)
	}
}

// Rebind implements [Kernel]. The next execution begins with it.
func (k *jupyter) Rebind(env map[string]string, seed []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bind = &binding{env: env, seed: seed}
}

// PID implements [Kernel].
func (k *jupyter) PID() int { return k.proc.pid }

// Done implements [Kernel].
func (k *jupyter) Done() <-chan struct{} { return k.done }

// Close implements [Kernel].
func (k *jupyter) Close() { k.proc.close() }

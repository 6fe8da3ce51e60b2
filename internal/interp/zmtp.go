package interp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
)

// zmtpFilter stands between zmq4 and the socket of a kernel. zmq4 allocates what a
// frame's header announces and takes any number of frames; a kernel may announce
// anything. The filter lets an empty frame through in the place of one that is
// longer than max, dropping its bytes, and refuses messages of too many frames.
type zmtpFilter struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
	max int64
	// dropped is called with the length of each frame that was too long.
	dropped func(int64)

	shaking  bool  // the handshake is going on: each write goes out before a read
	greeting int   // bytes of the greeting that are still to come
	left     int64 // bytes of the present frame that are still to come
	frames   int   // frames of the present message
	head     []byte
}

const (
	zmtpGreeting  = 64
	zmtpMaxFrames = 64

	zmtpMore = 1
	zmtpLong = 2
)

var errFrames = errors.New("message has too many frames")

// Read implements [net.Conn].
func (f *zmtpFilter) Read(p []byte) (int, error) {
	if f.shaking {
		if err := f.out.Flush(); err != nil {
			return 0, fmt.Errorf("write to kernel: %w", err)
		}
	}
	for len(p) > 0 {
		switch {
		case f.greeting > 0:
			n, err := f.in.Read(p[:min(len(p), f.greeting)])
			f.greeting -= n
			return n, err
		case len(f.head) > 0:
			n := copy(p, f.head)
			f.head = f.head[n:]
			return n, nil
		case f.left > 0:
			n, err := f.in.Read(p[:min(int64(len(p)), f.left)])
			f.left -= int64(n)
			return n, err
		}
		if err := f.header(); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// header reads the header of the next frame, and the whole frame if it is too long.
func (f *zmtpFilter) header() error {
	flags, err := f.in.ReadByte()
	if err != nil {
		return err
	}
	head := make([]byte, 2, 9)
	if flags&zmtpLong != 0 {
		head = head[:9] //nolint:gosec // its capacity
	}
	head[0] = flags
	if _, err := io.ReadFull(f.in, head[1:]); err != nil {
		return err
	}
	size := uint64(head[1])
	if flags&zmtpLong != 0 {
		size = binary.BigEndian.Uint64(head[1:])
	}
	if f.frames++; f.frames > zmtpMaxFrames {
		return errFrames
	}
	if flags&zmtpMore == 0 {
		f.frames = 0
	}
	if size <= uint64(f.max) { //nolint:gosec // positive
		f.head, f.left = head, int64(size) //nolint:gosec // at most max
		return nil
	}
	size = min(size, 1<<62)
	f.dropped(int64(size))
	if _, err := io.CopyN(io.Discard, f.in, int64(size)); err != nil {
		return err
	}
	f.head = []byte{flags &^ zmtpLong, 0}
	return nil
}

// Write implements [net.Conn]. What is written waits for a flush.
func (f *zmtpFilter) Write(p []byte) (int, error) { return f.out.Write(p) }

// channel is one of the sockets to a Jupyter kernel.
type channel struct {
	filter *zmtpFilter
	conn   *zmq4.Conn
	// drops counts frames that were too long, by their bytes.
	drops atomic.Int64

	mu sync.Mutex // guards writing
}

// openChannel shakes hands on conn. id is the socket's identity; limit bounds the
// length of a frame.
func openChannel(conn net.Conn, typ zmq4.SocketType, id string, limit int64) (_ *channel, err error) {
	defer func() {
		if p := recover(); p != nil { // so zmq4 takes a handshake that is none
			err = fmt.Errorf("open kernel socket: %v", p)
		}
	}()
	c := &channel{}
	c.filter = &zmtpFilter{
		Conn: conn, in: bufio.NewReaderSize(conn, 16<<10), out: bufio.NewWriterSize(conn, 16<<10),
		max: limit, dropped: func(n int64) { c.drops.Add(n) },
		shaking: true, greeting: zmtpGreeting,
	}
	if c.conn, err = zmq4.Open(c.filter, null.Security(), typ, zmq4.SocketIdentity(id), false, nil); err != nil {
		return nil, fmt.Errorf("open kernel socket: %w", err)
	}
	if err := c.filter.out.Flush(); err != nil {
		return nil, fmt.Errorf("open kernel socket: %w", err)
	}
	c.filter.shaking = false
	return c, nil
}

// send writes one message.
func (c *channel) send(frames ...[]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.filter.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write to kernel: %w", err)
	}
	if err := c.conn.SendMsg(zmq4.NewMsgFrom(frames...)); err != nil {
		return fmt.Errorf("write to kernel: %w", err)
	}
	if err := c.filter.out.Flush(); err != nil {
		return fmt.Errorf("write to kernel: %w", err)
	}
	return nil
}

// receive reads one message, and tells how many bytes of it were dropped. When
// any were, it may be of no use.
func (c *channel) receive() (frames [][]byte, dropped int64, err error) {
	msg, err := c.conn.RecvMsg()
	if err != nil {
		return nil, 0, fmt.Errorf("read from kernel: %w", err)
	}
	return msg.Frames, c.drops.Swap(0), nil
}

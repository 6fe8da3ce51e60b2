package proxy

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/time/rate"

	"github.com/bulkheadhq/bulkhead"
)

// Inside the box envd holds programs to what they may print. Here the host holds
// the box to it, whoever answers in there: everything that the ports of envd and of
// the interpreter send is output, but for the files that a client downloads, which
// are bounded as all traffic of the box is. It is counted as it is carried, so the
// host allows more than envd does: nobody meets its bound on the size of an answer
// who keeps to envd's limits, however little is printed at a time and in whatever
// script.
const (
	// outputFactor is how many bytes may be carried for one that is printed: base64
	// makes 4 of 3, JSON 2 of a quote.
	outputFactor = 2
	// outputSpare is how many more one answer may have, for what is no output in it.
	outputSpare = 4 << 20
	// messageFrame and lineFrame are how much of each message and line is not counted:
	// what an event is made of beside what was printed. It counts for 1 at least.
	messageFrame, lineFrame = 48, 80
	// leastRate is how many bytes a second may be carried for a sandbox that may print
	// a MiB in that time.
	leastRate = outputFactor << 20
)

// isOutput says whether an answer to this request is a box's output.
func (t target) isOutput(r *http.Request) bool {
	switch t.kind() {
	case kindEnvd:
		return r.Method != http.MethodGet || r.URL.Path != "/files"
	case kindInterpreter:
		return true
	}
	return false
}

// lane is a sandbox's way out, while requests to it are under way.
type lane struct {
	requests int
	output   *rate.Limiter
}

func newLane() *lane {
	// A quarter of a second's worth may come at once, as in the box.
	return &lane{output: rate.NewLimiter(rate.Inf, leastRate/4)}
}

// allow sets how many MiB a second may be printed.
func (l *lane) allow(mbPerSecond int64) {
	if bytes := mbPerSecond * leastRate; bytes > 0 && l.output.Limit() != rate.Limit(bytes) {
		l.output.SetLimit(rate.Limit(bytes))
		l.output.SetBurst(int(bytes) / 4)
	}
}

// errOutput is that of an answer which cannot be ended in a way that says why.
var errOutput = errors.New("output limit exceeded")

// bounded is the body of an answer that is output. At its limit it ends with what
// its reader understands as an error.
type bounded struct {
	io.ReadCloser

	ctx    context.Context //nolint:containedctx // a body is read within its request
	lane   *lane
	limits func() bulkhead.Limits // those in force now
	format format

	spent   int64  // of what may be carried
	line    line   // of a stream of lines
	message uint64 // bytes left of the message under way, of a stream of messages
	held    []byte // the begin of a message's head
	last    []byte // what is left to be said
	over    bool
}

// format is how an answer is put together.
type format uint8

const (
	opaque format = iota
	lines         // a JSON object a line
	messages
)

// formatOf is that of an answer to r.
func formatOf(t target, res *http.Response) format {
	typ, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	switch {
	case t.kind() == kindEnvd && strings.HasPrefix(typ, "application/connect+"):
		return messages
	case t.kind() == kindInterpreter && typ == "application/x-ndjson":
		return lines
	}
	return opaque
}

// bound holds an answer that is output to the sandbox's limits.
func (p *Proxy) bound(res *http.Response, h hop) error {
	for _, coding := range []string{"Content-Encoding", "Connect-Content-Encoding"} {
		if c := res.Header.Get(coding); c != "" && c != "identity" {
			return fmt.Errorf("%w: nobody asked for %s %q", errOutput, coding, c)
		}
	}
	b := &bounded{
		ReadCloser: res.Body, ctx: res.Request.Context(), lane: h.lane, format: formatOf(h.target, res),
		limits: func() bulkhead.Limits {
			sb, _, _ := p.cfg.Routes.Route(h.id)
			return sb.Limits
		},
	}
	if b.format != opaque { // it may end before what was promised
		res.Header.Del("Content-Length")
		res.ContentLength = -1
	}
	res.Body = b
	return nil
}

// head is how long that of a message is: a byte of flags and the length.
const head = 5

// Read implements [io.Reader].
func (b *bounded) Read(p []byte) (int, error) {
	if len(p) < 2*head {
		return 0, io.ErrShortBuffer
	}
	for {
		if b.over {
			n := copy(p, b.last)
			if b.last = b.last[n:]; n > 0 {
				return n, nil
			}
			if b.format == opaque {
				return 0, errOutput
			}
			return 0, io.EOF
		}
		n := copy(p, b.held)
		b.held = b.held[n:]
		more, err := b.ReadCloser.Read(p[n:])
		limits := b.limits()
		n = b.admit(p[:n+more], limits, err != nil)
		b.lane.allow(limits.OutputMBPerSecond)
		if waited := b.wait(n); waited != nil {
			return 0, waited
		}
		if n > 0 && b.over {
			return n, nil
		}
		if n > 0 || err != nil && !b.over {
			return n, err //nolint:wrapcheck // EOF must stay one
		}
	}
}

// wait holds n bytes up for the rate of output.
func (b *bounded) wait(n int) error {
	for n > 0 {
		part := min(n, b.lane.output.Burst())
		if err := b.lane.output.WaitN(b.ctx, part); err != nil {
			return err //nolint:wrapcheck // the request is over
		}
		n -= part
	}
	return nil
}

// admit returns how many bytes of p may pass, and ends the answer at its limit: a
// stream of messages between two of them. What may be the begin of a head is held
// back, unless p is the end.
func (b *bounded) admit(p []byte, limits bulkhead.Limits, end bool) int {
	most := limits.OutputMB*outputFactor<<20 + outputSpare
	if limits.OutputMB == 0 {
		return len(p)
	}
	switch b.format {
	case lines:
		for i, c := range p {
			if b.spent += b.line.cost(c); b.spent > most {
				b.exceed(limits)
				return i
			}
		}
		return len(p)
	case opaque:
		if left := most - b.spent; int64(len(p)) > left {
			b.exceed(limits)
			return int(left)
		}
		b.spent += int64(len(p))
		return len(p)
	case messages:
	}
	for at := 0; ; {
		skip := min(uint64(len(p)-at), b.message)
		at += int(skip) //nolint:gosec // at most len(p)
		if b.message -= skip; at == len(p) {
			return at
		}
		if len(p)-at < head {
			if end {
				return len(p)
			}
			b.held = append([]byte(nil), p[at:]...)
			return at
		}
		size := head + int64(binary.BigEndian.Uint32(p[at+1:]))
		if b.spent += max(1, size-messageFrame); b.spent > most {
			b.exceed(limits)
			return at
		}
		b.message = uint64(size)
	}
}

// line is where in a line of JSON a stream is.
type line struct {
	at, skip int // bytes of it before, and bytes left of a character's number
	slash    bool
}

// cost is what the next byte of the stream costs: 1, but nothing in the line's frame,
// nor do the four digits of \uXXXX, which is one byte that was printed, or more.
func (l *line) cost(c byte) int64 {
	if c == '\n' {
		*l = line{}
		return 1
	}
	l.at++
	switch {
	case l.skip > 0:
		l.skip--
		return 0
	case l.slash:
		l.slash = false
		if c == 'u' {
			l.skip = 4
		}
	case c == '\\':
		l.slash = true
	}
	if l.at <= lineFrame {
		return 0
	}
	return 1
}

// exceed ends the answer with the error that names the limit.
func (b *bounded) exceed(limits bulkhead.Limits) {
	b.over = true
	said := fmt.Sprintf("%s: the sandbox sent more in one answer than outputMB, which is %d MiB, allows to be carried",
		bulkhead.CauseOutputLimit, limits.OutputMB)
	switch b.format {
	case messages:
		const endOfStream = 2
		body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": "resource_exhausted", "message": said}}) // strings always encode
		b.last = binary.BigEndian.AppendUint32([]byte{endOfStream}, uint32(len(body)))                                     //nolint:gosec // a sentence
		b.last = append(b.last, body...)
	case lines:
		body, _ := json.Marshal(map[string]any{
			"type": "error", "name": "OutputLimitExceeded", "value": said, "traceback": "",
			"end": bulkhead.End{Cause: bulkhead.CauseOutputLimit, Limit: limits.OutputMB << 20, Detail: said},
		})
		b.last = append(append([]byte("\n"), body...), "\n"+`{"type":"end_of_execution"}`+"\n"...)
	case opaque:
	}
}

// codings are the headers by which a client asks for a coding. Output is carried as
// it is: what is small here would else be large there.
var codings = []string{"Accept-Encoding", "Connect-Accept-Encoding"}

package client

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/bulkheadhq/bulkhead"
)

// Output is what came of a program: what it printed, at most 16 MiB of each
// stream, and its end. A terminal's output is in Stdout.
type Output struct {
	Stdout []byte
	Stderr []byte
	// Truncated says that more was printed than is kept here.
	Truncated bool
	// End is how the program ended.
	End bulkhead.End
}

// Exec starts a program, feeds it stdin until that ends, and waits for the
// program's end. A nil stdin is an empty one; a Read of it that blocks may
// outlive Exec. The error is nil whatever the program's end was.
func (s *Sandbox) Exec(ctx context.Context, cmd Command, stdin io.Reader) (*Output, error) {
	cmd.Stdin = stdin != nil
	p, err := s.Start(ctx, cmd)
	if err != nil {
		return nil, err
	}
	defer p.Detach()
	if stdin != nil {
		feeding, stop := context.WithCancel(ctx)
		defer stop()
		go func() { _ = p.Feed(feeding, stdin) }() // a program may end before its input does
	}
	var stdout, stderr bytes.Buffer
	var out Output
	for c, err := range p.Output() {
		if err != nil {
			return nil, err
		}
		to := &stdout
		if c.Stream == Stderr {
			to = &stderr
		}
		out.Truncated = collect(to, c.Data) || out.Truncated
	}
	out.Stdout, out.Stderr = stdout.Bytes(), stderr.Bytes()
	out.End, err = p.Wait()
	return &out, err
}

// Feed writes r to the program until r ends, and then closes the program's
// input. It returns early when ctx ends or the program does; the Read under way
// must return by itself.
func (p *Process) Feed(ctx context.Context, r io.Reader) error {
	buf := make([]byte, stdinChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := p.Write(ctx, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF) && p.tty:
			return p.Write(ctx, []byte{4}) // ^D: a terminal has no other end of input
		case errors.Is(err, io.EOF):
			return p.CloseStdin(ctx)
		case err != nil:
			return &bulkhead.Error{Code: bulkhead.CodeInvalid, Op: "write to process", Msg: "its input cannot be read", Err: err}
		case ctx.Err() != nil:
			return transportError(ctx, "write to process", ctx.Err())
		}
	}
}

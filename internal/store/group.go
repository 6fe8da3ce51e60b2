package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// groupSize bounds how many writes share one transaction.
const groupSize = 128

// errClosed is what a write after Close gets.
var errClosed = errors.New("store is closed")

// op is one write. An error that is a *bulkhead.Error refuses this write alone
// and means that it changed nothing; any other error undoes the whole group, whose
// other writes are then done again.
type op func(ctx context.Context, tx *sql.Tx) error

// write is an op that waits for its group.
type write struct {
	ctx  context.Context //nolint:containedctx // the caller's, looked at once when its turn comes
	op   op
	done bool // guarded by group.commit
	err  error
}

// group lets writes that arrive together share one transaction and so one
// fsync. Whoever takes the commit lock writes for everyone who waits for it, so
// there is no goroutine to own and no delay to tune.
type group struct {
	db *sql.DB

	commit sync.Mutex // held for one transaction

	mu      sync.Mutex
	waiting []*write
	closed  bool
}

func newGroup(db *sql.DB) *group { return &group{db: db} }

// do runs f in a transaction and returns once that is durable, or has failed. A
// ctx that ends before its turn comes cancels the write; later it cannot.
func (g *group) do(ctx context.Context, f op) error {
	w := &write{ctx: ctx, op: f}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return errClosed
	}
	g.waiting = append(g.waiting, w)
	g.mu.Unlock()

	g.commit.Lock()
	defer g.commit.Unlock()
	for !w.done {
		g.runBatch(g.next())
	}
	return w.err
}

// next takes the writes that have waited longest.
func (g *group) next() []*write {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), groupSize)
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	if len(g.waiting) == 0 {
		g.waiting = nil
	}
	return batch
}

// runBatch writes a batch in one transaction and tells each write how it went. When
// a statement breaks, each write gets a transaction of its own, so that it breaks
// for its own only.
func (g *group) runBatch(batch []*write) {
	err := g.transact(batch)
	if _, ambiguous := errors.AsType[*commitError](err); stale(err) && !ambiguous {
		err = g.transact(batch) // the connection was dead, and nothing came of it
	}
	if broken, ok := errors.AsType[*brokenError](err); ok && len(batch) > 1 && !unreachable(broken.err) {
		for _, w := range batch {
			g.runBatch([]*write{w})
		}
		return
	}
	for _, w := range batch {
		if w.err == nil {
			w.err = fault(err)
		}
		w.done = true
	}
}

// brokenError is that a write's statement failed, and its group was undone.
type brokenError struct{ err error }

// Error says what failed.
func (e *brokenError) Error() string { return "write: " + e.err.Error() }

// Unwrap returns what failed.
func (e *brokenError) Unwrap() error { return e.err }

// transact runs a batch. When it returns nil all of it is durable but the writes
// that have an error; else nothing of it is.
func (g *group) transact(batch []*write) error {
	// One caller's cancel must not undo the others' writes.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(batch[0].ctx), writeTimeout, errSlow)
	defer cancel()
	tx, err := g.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", slow(ctx, err))
	}
	for _, w := range batch {
		if w.err = w.ctx.Err(); w.err != nil {
			continue
		}
		err := w.op(ctx, tx)
		if _, refused := errors.AsType[*bulkhead.Error](err); err != nil && !refused {
			_ = tx.Rollback() // what broke is what counts
			return &brokenError{slow(ctx, err)}
		}
		w.err = err
	}
	if err := tx.Commit(); err != nil {
		return &commitError{slow(ctx, err)}
	}
	return nil
}

// commitError is that a commit failed, whether it was done or not.
type commitError struct{ err error }

// Error says what failed.
func (e *commitError) Error() string { return "commit: " + e.err.Error() }

// Unwrap returns what failed.
func (e *commitError) Unwrap() error { return e.err }

// writeTimeout bounds one transaction.
const writeTimeout = 15 * time.Second

// errSlow is that a transaction took longer.
var errSlow = &bulkhead.Error{Code: bulkhead.CodeUnavailable, Msg: "the database does not answer; try again", RetryAfter: 2 * time.Second}

// slow returns errSlow instead of err when that is why.
func slow(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// close refuses later writes and waits for those under way.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.commit.Lock()
	defer g.commit.Unlock()
	for batch := g.next(); len(batch) > 0; batch = g.next() {
		g.runBatch(batch)
	}
}

package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bulkheadhq/bulkhead"
)

// scanner is a row, alone or of many.
type scanner interface{ Scan(dest ...any) error }

// queryer is a database or a transaction.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// reader is the database for queries. A query that finds a connection dead is made
// on another one: the database may have been started anew.
type reader struct{ *sql.DB }

// QueryContext is that of [sql.DB].
func (r reader) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	for try := 0; ; try++ {
		rows, err := r.DB.QueryContext(ctx, text, args...)
		if try == readers || !stale(err) {
			return rows, err //nolint:wrapcheck // the caller's
		}
	}
}

// QueryRowContext is that of [sql.DB].
func (r reader) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	for try := 0; ; try++ {
		row := r.DB.QueryRowContext(ctx, text, args...)
		if try == readers || !stale(row.Err()) {
			return row
		}
	}
}

// query returns what scan makes of each row. None is nil.
func query[T any](ctx context.Context, db reader, scan func(scanner) (T, error), text string, args ...any) (_ []T, err error) {
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fault(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, fault(rows.Err())
}

// changed returns how many rows a statement changed.
func changed(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// nanos is the stored form of a time: 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// fault returns err with the code that it deserves: [bulkhead.CodeUnavailable] when
// the database cannot be reached, [bulkhead.CodeInvalid] for a text that it cannot
// hold. Any other error is returned as it is.
func fault(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == invalidText {
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: "a text holds a zero byte, or is not UTF-8", Err: err}
	}
	if err == nil || errors.Is(err, errSlow) || !unreachable(err) {
		return err
	}
	return &bulkhead.Error{
		Code: bulkhead.CodeUnavailable, RetryAfter: 2 * time.Second, Err: err,
		Msg: "the database cannot be reached; try again",
	}
}

// invalidText is PostgreSQL's code for a text that is not in its encoding.
const invalidText = "22021"

// stale reports whether err says that a connection is dead which was good once.
func stale(err error) bool {
	_, fresh := errors.AsType[*pgconn.ConnectError](err)
	return err != nil && !fresh && !errors.Is(err, errSlow) && unreachable(err)
}

// unreachable reports whether err is about the way to the database, or about a
// database that is starting or stopping.
func unreachable(err error) bool {
	if errors.Is(err, errSlow) {
		return true
	}
	if _, ok := errors.AsType[*bulkhead.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || errors.Is(err, driver.ErrBadConn) {
		return true
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		// Connection exceptions, and what an operator or a crash did to the server.
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "57P") || pg.Code == "53300"
	}
	_, ok := errors.AsType[net.Error](err)
	return ok && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

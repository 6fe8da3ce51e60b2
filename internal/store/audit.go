package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// AuditRetention is how long an act is kept.
	AuditRetention = 365 * aDay
	// MaxActs is how many one query returns at most.
	MaxActs = 1000
	// maxDetail bounds what is kept of an act's detail, in bytes.
	maxDetail = 2048
)

const actColumns = `id, at, tenant, key_id, action, target, target_tenant, source, request, outcome, detail`

// Record keeps an act; its ID, and its time if that is zero, are set here.
func (s *Store) Record(ctx context.Context, a bulkhead.Act) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("record act: %w", err)
	}
	if a.At.IsZero() {
		a.At = time.Now()
	}
	for _, text := range []*string{&a.Action, &a.Target, &a.TargetTenant, &a.Source, &a.Request, &a.Detail} {
		*text = tidy(*text, maxDetail)
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO audit (`+actColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			id.String(), nanos(a.At), a.Tenant, a.Key, a.Action, a.Target, a.TargetTenant, a.Source, a.Request, a.Outcome, a.Detail)
		return err
	})
	if err != nil {
		return fmt.Errorf("record act: %w", err)
	}
	return nil
}

// tidy returns at most n bytes of s, without what a database refuses in a text.
func tidy(s string, n int) string {
	s = s[:min(len(s), n)]
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// ActQuery selects acts. Zero fields select all.
type ActQuery struct {
	// Tenant selects what a tenant's keys did, and what was done to it.
	Tenant string
	// Action, Key and Target select by those.
	Action, Key, Target string
	// From and To bound the time.
	From, To time.Time
	// Before is the ID of the first act of the page before; later ones are left out.
	Before string
	// Limit is how many are wanted: 1 to [MaxActs].
	Limit int
}

// Acts returns what q selects, the newest first. Code: invalid.
func (s *Store) Acts(ctx context.Context, q ActQuery) ([]bulkhead.Act, error) {
	if q.Limit < 1 || q.Limit > MaxActs {
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "limit is %d; it must be between 1 and %d", q.Limit, MaxActs)
	}
	out, err := query(ctx, s.read, func(row scanner) (bulkhead.Act, error) {
		var a bulkhead.Act
		var at int64
		err := row.Scan(&a.ID, &at, &a.Tenant, &a.Key, &a.Action, &a.Target, &a.TargetTenant, &a.Source, &a.Request, &a.Outcome, &a.Detail)
		a.At = fromNanos(at)
		return a, err
	}, `SELECT `+actColumns+` FROM audit WHERE ($1 = '' OR tenant = $1 OR target_tenant = $1)
		AND ($2 = '' OR action = $2) AND ($3 = '' OR key_id = $3) AND ($4 = '' OR target = $4)
		AND at >= $5 AND (CAST($6 AS BIGINT) = 0 OR at <= $6) AND ($7 = '' OR id < $7) ORDER BY id DESC LIMIT $8`,
		q.Tenant, q.Action, q.Key, q.Target, nanos(q.From), nanos(q.To), q.Before, q.Limit)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return out, nil
}

// PruneActs deletes the acts before the given time.
func (s *Store) PruneActs(ctx context.Context, before time.Time) error {
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM audit WHERE at < $1`, before.UnixNano())
		return err
	})
	if err != nil {
		return fmt.Errorf("prune audit log: %w", err)
	}
	return nil
}

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// columns are those of a sandbox, in the order that [Store.scanSandbox] reads them.
const columns = `id, tenant, template_id, template, template_digest, state, started_at, end_at,
	limits, metadata, env, envd_token, traffic_token, allow_internet, mask_host, envd_version,
	address, box, end_evidence, network, allocation`

// PutSandbox records sb, which must not have ended; [Store.EndSandbox] is for
// that. A sandbox that is not known yet must be starting or running. For one that
// is, the state may stay or change as [bulkhead.State.May] allows, and all but
// its id, tenant, template and start is written anew. It returns when the row is
// durable. Codes: invalid, conflict (a change that is not allowed, or another
// tenant's id), not_found (ending one that is not known, or a new one of a tenant
// that there is not).
func (s *Store) PutSandbox(ctx context.Context, sb bulkhead.Sandbox) error {
	row, err := s.encodeSandbox(sb)
	if err != nil {
		return err
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if sb.State != bulkhead.StateEnding {
			n, err := changed(tx.ExecContext(ctx, `INSERT INTO sandboxes (`+columns+`, end_cause)
				SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22
				WHERE EXISTS (SELECT 1 FROM tenants WHERE id = $2)
				ON CONFLICT (id) DO NOTHING`, row...))
			if n == 1 || err != nil {
				return err
			}
		}
		n, err := changed(tx.ExecContext(ctx, `UPDATE sandboxes SET state = $3, end_at = $4, limits = $5,
			metadata = $6, env = $7, envd_token = $8, traffic_token = $9, allow_internet = $10,
			mask_host = $11, envd_version = $12, address = $13, box = $14, end_evidence = $15, network = $16, allocation = $17,
			end_cause = $18
			WHERE id = $1 AND tenant = $2 AND state IN (`+list(before(sb.State))+`)`,
			append([]any{sb.ID, sb.Tenant, string(sb.State)}, row[7:]...)...))
		if n == 1 || err != nil {
			return err
		}
		err = whyNot(ctx, tx, sb.ID, sb.State)
		if bulkhead.CodeOf(err) == bulkhead.CodeNotFound && sb.State != bulkhead.StateEnding {
			return noTenant(sb.Tenant)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("put sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// EndSandbox records that the sandbox ended, and how. One that was starting or
// running passes through [bulkhead.StateEnding] in the same step. It returns when
// the row is durable. Codes: not_found; conflict when it had ended before: the
// first end stands.
func (s *Store) EndSandbox(ctx context.Context, id string, end bulkhead.End) error {
	evidence, err := json.Marshal(end)
	if err != nil {
		return fmt.Errorf("end sandbox %s: encode end: %w", id, err)
	}
	from := before(bulkhead.StateEnded)
	for _, state := range before(bulkhead.StateEnding) {
		if !slices.Contains(from, state) {
			from = append(from, state)
		}
	}
	err = s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		n, err := changed(tx.ExecContext(ctx, `UPDATE sandboxes
			SET state = $2, ended_at = $3, end_cause = $4, end_evidence = $5
			WHERE id = $1 AND state IN (`+list(from)+`)`,
			id, string(bulkhead.StateEnded), nanos(end.At), string(end.Cause), string(evidence)))
		if n == 1 || err != nil {
			return err
		}
		return whyNot(ctx, tx, id, bulkhead.StateEnded)
	})
	if err != nil {
		return fmt.Errorf("end sandbox %s: %w", id, err)
	}
	return nil
}

// Sandbox returns one sandbox, ended ones too while they are kept. An empty
// tenant means any. Code: not_found, also for another tenant's.
func (s *Store) Sandbox(ctx context.Context, tenant, id string) (bulkhead.Sandbox, error) {
	row := s.read.QueryRowContext(ctx, `SELECT `+columns+` FROM sandboxes WHERE id = $1`, id)
	sb, err := s.scanSandbox(row)
	if errors.Is(err, sql.ErrNoRows) || (err == nil && tenant != "" && sb.Tenant != tenant) {
		return bulkhead.Sandbox{}, bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
	}
	if err != nil {
		return bulkhead.Sandbox{}, fmt.Errorf("read sandbox %s: %w", id, fault(err))
	}
	return sb, nil
}

// Sandboxes returns the sandboxes that f selects, newest first. A filter without
// states selects ended ones too, as many as the retention keeps: callers on a
// request's path name the states they want.
func (s *Store) Sandboxes(ctx context.Context, f bulkhead.Filter) ([]bulkhead.Sandbox, error) {
	text, args := selectSandboxes(f, time.Time{})
	out, err := query(ctx, s.read, s.scanSandbox, text, args...)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return slices.DeleteFunc(out, func(sb bulkhead.Sandbox) bool { return !hasAll(sb.Metadata, f.Metadata) }), nil
}

// Ended returns the newest sandboxes that have ended, that f selects (its States
// aside) and that started no later than latest; at most limit of them.
func (s *Store) Ended(ctx context.Context, f bulkhead.Filter, latest time.Time, limit int) (_ []bulkhead.Sandbox, err error) {
	f.States = []bulkhead.State{bulkhead.StateEnded}
	text, args := selectSandboxes(f, latest)
	rows, err := s.read.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("list ended sandboxes: %w", fault(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []bulkhead.Sandbox
	for len(out) < limit && rows.Next() { // the rest stays unread
		sb, err := s.scanSandbox(rows)
		if err != nil {
			return nil, fmt.Errorf("list ended sandboxes: %w", err)
		}
		if hasAll(sb.Metadata, f.Metadata) {
			out = append(out, sb)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list ended sandboxes: %w", err)
	}
	return out, nil
}

// selectSandboxes builds the query for f. Metadata is compared in Go: the two
// databases have no JSON operator in common. latest, unless zero, is the last
// start that is selected.
func selectSandboxes(f bulkhead.Filter, latest time.Time) (string, []any) {
	var where []string
	var args []any
	add := func(condition string, value any) {
		args = append(args, value)
		where = append(where, strings.ReplaceAll(condition, "?", "$"+strconv.Itoa(len(args))))
	}
	if f.Tenant != "" {
		add("tenant = ?", f.Tenant)
	}
	if f.Template != "" {
		add("(template = ? OR template_id = ?)", f.Template)
	}
	if !f.StartedAfter.IsZero() {
		add("started_at > ?", f.StartedAfter.UnixNano())
	}
	if !latest.IsZero() {
		add("started_at <= ?", latest.UnixNano())
	}
	if len(f.States) > 0 {
		where = append(where, "state IN ("+list(f.States)+")")
		if !slices.Contains(f.States, bulkhead.StateEnded) {
			where = append(where, "ended_at IS NULL") // lets the partial index serve
		}
	}
	text := `SELECT ` + columns + ` FROM sandboxes`
	if len(where) > 0 {
		text += ` WHERE ` + strings.Join(where, ` AND `)
	}
	return text + ` ORDER BY started_at DESC, id DESC`, args
}

// hasAll reports whether have contains every pair of want.
func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// encodeSandbox returns the values of [columns] and end_cause.
func (s *Store) encodeSandbox(sb bulkhead.Sandbox) ([]any, error) {
	switch {
	case sb.ID == "":
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "sandbox id is empty")
	case sb.Tenant == "":
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "sandbox %s has no tenant", sb.ID)
	case sb.State == bulkhead.StateEnded || len(before(sb.State)) == 0:
		return nil, bulkhead.Errorf(bulkhead.CodeInvalid, "sandbox %s cannot be put in state %q", sb.ID, sb.State)
	}
	var allocation, evidence, cause sql.NullString
	if sb.Allocation != nil {
		b, err := json.Marshal(sb.Allocation)
		if err != nil {
			return nil, fmt.Errorf("encode allocation: %w", err)
		}
		allocation = sql.NullString{String: string(b), Valid: true}
	}
	if sb.End != nil {
		b, err := json.Marshal(sb.End)
		if err != nil {
			return nil, fmt.Errorf("encode end: %w", err)
		}
		evidence = sql.NullString{String: string(b), Valid: true}
		cause = sql.NullString{String: string(sb.End.Cause), Valid: true}
	}
	var docs [4]string
	for i, v := range []any{sb.Limits, sb.Metadata, sb.Env, sb.Network} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("encode sandbox: %w", err)
		}
		docs[i] = string(b)
	}
	return []any{
		sb.ID, sb.Tenant, sb.TemplateID, sb.Template, sb.TemplateDigest, string(sb.State),
		nanos(sb.StartedAt), nanos(sb.EndAt), docs[0], docs[1],
		s.seal(sb.ID, "env", docs[2]), s.seal(sb.ID, "envd_token", sb.EnvdToken), s.seal(sb.ID, "traffic_token", sb.TrafficToken),
		sb.AllowInternet, sb.MaskHost, sb.EnvdVersion, sb.Address, sb.Box, evidence, docs[3], allocation, cause,
	}, nil
}

// scanSandbox reads [columns].
func (s *Store) scanSandbox(row scanner) (bulkhead.Sandbox, error) {
	var sb bulkhead.Sandbox
	var state, limits, metadata, env, network string
	var started, end int64
	var allocation, evidence sql.NullString
	if err := row.Scan(&sb.ID, &sb.Tenant, &sb.TemplateID, &sb.Template, &sb.TemplateDigest, &state,
		&started, &end, &limits, &metadata, &env, &sb.EnvdToken, &sb.TrafficToken, &sb.AllowInternet,
		&sb.MaskHost, &sb.EnvdVersion, &sb.Address, &sb.Box, &evidence, &network, &allocation); err != nil {
		return sb, err
	}
	sb.State, sb.StartedAt, sb.EndAt = bulkhead.State(state), fromNanos(started), fromNanos(end)
	env = s.unsealSandbox(&sb, env)
	for _, d := range []struct {
		name, doc string
		into      any
	}{{"limits", limits, &sb.Limits}, {"metadata", metadata, &sb.Metadata}, {"env", env, &sb.Env}, {"network", network, &sb.Network}} {
		if err := json.Unmarshal([]byte(d.doc), d.into); err != nil {
			return sb, fmt.Errorf("decode %s of sandbox %s: %w", d.name, sb.ID, err)
		}
	}
	if allocation.Valid {
		sb.Allocation = new(bulkhead.Allocation)
		if err := json.Unmarshal([]byte(allocation.String), sb.Allocation); err != nil {
			return sb, fmt.Errorf("decode allocation of sandbox %s: %w", sb.ID, err)
		}
	}
	if evidence.Valid {
		sb.End = new(bulkhead.End)
		if err := json.Unmarshal([]byte(evidence.String), sb.End); err != nil {
			return sb, fmt.Errorf("decode end of sandbox %s: %w", sb.ID, err)
		}
	}
	return sb, nil
}

// before lists the states from which a sandbox may come to be in state next,
// with next itself unless that is the last.
func before(next bulkhead.State) []bulkhead.State {
	var out []bulkhead.State
	for _, s := range []bulkhead.State{
		bulkhead.StateStarting, bulkhead.StateRunning, bulkhead.StateEnding, bulkhead.StateEnded,
	} {
		if s.May(next) || (s == next && s != bulkhead.StateEnded) {
			out = append(out, s)
		}
	}
	return out
}

// list writes states as SQL literals. They are from a closed set, but a filter's
// come from a caller: quotes are doubled all the same.
func list(states []bulkhead.State) string {
	quoted := make([]string, len(states))
	for i, s := range states {
		quoted[i] = "'" + strings.ReplaceAll(string(s), "'", "''") + "'"
	}
	return strings.Join(quoted, ", ")
}

// whyNot says why no row of the sandbox could change to state next.
func whyNot(ctx context.Context, tx *sql.Tx, id string, next bulkhead.State) error {
	var state string
	err := tx.QueryRowContext(ctx, `SELECT state FROM sandboxes WHERE id = $1`, id).Scan(&state)
	if errors.Is(err, sql.ErrNoRows) {
		return bulkhead.Errorf(bulkhead.CodeNotFound, "sandbox %q was not found", id)
	}
	if err != nil {
		return err
	}
	return bulkhead.Errorf(bulkhead.CodeConflict, "sandbox %q is %s and cannot become %s", id, state, next)
}

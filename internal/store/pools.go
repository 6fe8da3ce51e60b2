package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Pool is what is kept of one template's pool.
type Pool struct {
	// Template is the template's name.
	Template string
	// Forecast is what was learned, in the form of package forecast; nil when
	// nothing was.
	Forecast []byte
	// Pin is the size that an operator set; nil when the forecast decides.
	Pin *PoolSize
	// SavedAt is when this was stored.
	SavedAt time.Time
}

// PoolSize is how many boxes should wait.
type PoolSize struct{ Warm, Cold int }

// Pools returns all that is kept of pools, in the order of their names.
func (s *Store) Pools(ctx context.Context) ([]Pool, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT template, forecast, pin_warm, pin_cold, saved_at FROM pools ORDER BY template`)
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	defer rows.Close()
	var all []Pool
	for rows.Next() {
		var p Pool
		var forecast string
		var warm, cold sql.NullInt64
		var saved int64
		if err := rows.Scan(&p.Template, &forecast, &warm, &cold, &saved); err != nil {
			return nil, fmt.Errorf("read pools: %w", err)
		}
		if forecast != "" {
			p.Forecast = []byte(forecast)
		}
		if warm.Valid && cold.Valid {
			p.Pin = &PoolSize{Warm: int(warm.Int64), Cold: int(cold.Int64)}
		}
		p.SavedAt = time.Unix(0, saved).UTC()
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	return all, nil
}

// PutPools stores what is known of pools, replacing what was; SavedAt is set to
// now. It is durable, all of it or nothing, when it returns.
func (s *Store) PutPools(ctx context.Context, pools ...Pool) error {
	err := s.group.do(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, p := range pools {
			var warm, cold sql.NullInt64
			if p.Pin != nil {
				warm, cold = sql.NullInt64{Int64: int64(p.Pin.Warm), Valid: true}, sql.NullInt64{Int64: int64(p.Pin.Cold), Valid: true}
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO pools (template, forecast, pin_warm, pin_cold, saved_at)
				VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (template) DO UPDATE SET forecast = excluded.forecast,
					pin_warm = excluded.pin_warm, pin_cold = excluded.pin_cold, saved_at = excluded.saved_at`,
				p.Template, string(p.Forecast), warm, cold, time.Now().UnixNano()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store pools: %w", err)
	}
	return nil
}

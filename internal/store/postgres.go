package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/bulkheadhq/bulkhead"
)

const (
	// lockKey names the advisory lock of the server that uses the database.
	lockKey = 0x62756c6b68656164 // "bulkhead"
	// lockPatience is how long a server waits for the lock of one that was killed.
	lockPatience = 5 * time.Second
	// connectTimeout bounds one attempt to reach the database.
	connectTimeout = 5 * time.Second
)

// openPostgres opens the database that rawURL names and takes its lock.
func (s *Store) openPostgres(ctx context.Context, rawURL string) error {
	cfg, err := pgx.ParseConfig(rawURL)
	if err != nil { // its text leaves the password out
		return &bulkhead.Error{Code: bulkhead.CodeInvalid, Msg: "database is not a PostgreSQL URL; it looks like postgres://user:password@host/name", Err: err}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "bulkhead"
	}
	// An acknowledged row is on the disk, whatever the server's default.
	cfg.RuntimeParams["synchronous_commit"] = "on"
	s.write = stdlib.OpenDB(*cfg.Copy(), stdlib.OptionAfterConnect(lockPostgres))
	s.write.SetMaxOpenConns(1)
	s.write.SetMaxIdleConns(1)
	if err := migrate(ctx, goose.DialectPostgres, s.write, s.log); err != nil {
		return errors.Join(err, s.write.Close())
	}
	s.read.DB = stdlib.OpenDB(*cfg.Copy())
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	return nil
}

// lockPostgres takes the database's lock for the one connection that writes. The
// database lets go of it when the connection ends, however it ends.
func lockPostgres(ctx context.Context, conn *pgx.Conn) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(lockPatience); ; {
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(lockKey)).Scan(&got); err != nil {
			return fmt.Errorf("lock database: %w", err)
		}
		if got {
			return nil
		}
		if time.Now().After(end) {
			return bulkhead.Errorf(bulkhead.CodeConflict, "another server uses the database %s", conn.Config().Database)
		}
		<-again.C
	}
}

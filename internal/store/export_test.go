package store

import (
	"context"
	"database/sql"
)

// Pools shows a test the connections.
func Pools(s *Store) map[string]*sql.DB {
	return map[string]*sql.DB{"read": s.read.DB, "write": s.write}
}

// Migrations shows a test the schema's history.
var Migrations = migrations

// HexHash is how a hash is stored.
var HexHash = hexHash

// Do writes as the methods of Store do.
func Do(ctx context.Context, s *Store, f func(context.Context, *sql.Tx) error) error {
	return s.group.do(ctx, f)
}

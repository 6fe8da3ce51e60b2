package node

import (
	"context"
	"time"

	"github.com/bulkheadhq/bulkhead/internal/pool"
)

// serveTime is how long a box that waits may take to say that it is well.
const serveTime = time.Second

// Serves asks a box that waits for its health, once; ctx bounds the wait.
func (n *Node) Serves(ctx context.Context, b *pool.Box) error {
	return n.ping(ctx, b, serveTime)
}

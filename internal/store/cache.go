package store

import (
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// cacheSize bounds the entries of a cache.
const cacheSize = 4096

// cache keeps rows that are read far more often than they are written. A write
// drops all of it: there are few.
type cache[K comparable, V any] struct {
	life    time.Duration // how long an entry is good; 0 is until a write
	entries *lru.Cache[K, cached[V]]

	mu     sync.Mutex // held to add and to drop
	writes uint64     // counted so that a read that a write overtook is not kept
}

type cached[V any] struct {
	value V
	until time.Time
}

func newCache[K comparable, V any](life time.Duration) *cache[K, V] {
	entries, _ := lru.New[K, cached[V]](cacheSize) // fails for a size below 1 only
	return &cache[K, V]{life: life, entries: entries}
}

// get returns the entry for k, or what load returns, which is kept unless it is
// an error.
func (c *cache[K, V]) get(ctx context.Context, k K, load func(context.Context, K) (V, error)) (V, error) {
	if e, ok := c.entries.Get(k); ok && (c.life == 0 || time.Now().Before(e.until)) {
		return e.value, nil
	}
	c.mu.Lock()
	before := c.writes
	c.mu.Unlock()
	v, err := load(ctx, k)
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == before {
		c.entries.Add(k, cached[V]{v, time.Now().Add(c.life)})
	}
	return v, nil
}

// drop forgets everything. It is called when a write is durable and before that
// is acknowledged.
func (c *cache[K, V]) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes++
	c.entries.Purge()
}

package node

import (
	"time"

	"github.com/bulkheadhq/bulkhead/internal/quota"
)

const (
	// measureEvery is how soon the book learns of what a sandbox uses.
	measureEvery = time.Second
	// measuredAtOnce bounds how many are measured at a time, at some 0.3 ms each;
	// of more, others are the next time.
	measuredAtOnce = 128
)

// told is up to where a sandbox's use was told to the book.
type told struct {
	cpu time.Duration
	at  time.Time
}

// measure tells the book what the sandboxes use.
func (n *Node) measure(now time.Time) {
	all := n.leases() // in no order: a prefix is a fair sample
	for _, l := range all[:min(len(all), measuredAtOnce)] {
		n.measureOne(now, l)
	}
}

// measureOne tells the book what one sandbox uses.
func (n *Node) measureOne(now time.Time, l *lease) {
	usage, err := l.box.Part.Usage()
	if err != nil {
		return // the box is gone
	}
	l.mu.Lock()
	was := l.told
	l.told = told{usage.CPU, now}
	var disk int64
	if k := len(l.samples.values); k > 0 {
		disk = l.samples.values[k-1].DiskUsed >> 20
	}
	l.mu.Unlock()
	use := quota.Amounts{quota.Memory: (usage.Memory - usage.Cache) >> 20, quota.Disk: disk}
	if span := now.Sub(was.at); !was.at.IsZero() && span > 0 {
		use[quota.CPU] = int64(1000 * (usage.CPU - was.cpu) / span)
	}
	l.booking.Measured(now, use)
}

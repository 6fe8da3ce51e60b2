package node

import "time"

// Measure tells the book what the sandboxes use, as Run does once a second.
func (n *Node) Measure(now time.Time) { n.measure(now) }

package node

import "time"

// Measure tells the book what the sandboxes use, as Run does once a second.
func (n *Node) Measure(now time.Time) { n.measure(now) }

// TakeTurns decides who goes first on the processors, as Run does.
func (n *Node) TakeTurns(now time.Time) { n.takeTurns(now) }

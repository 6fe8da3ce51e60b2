// Package bulkhead is the vocabulary of the product: one file per noun, holding
// the types, states and codes that every other package speaks in.
//
// It imports the standard library only, does no I/O, starts no goroutine and has
// no clock of its own. All types are plain values; a caller that shares one
// between goroutines does its own locking. JSON tags are Bulkhead's own wire
// format (/v1); E2B's wire format lives at the edge, in internal/api.
package bulkhead

// Package archtest holds the layers of the tour in cmd/bulkhead/doc.go: a package
// imports only packages of lower layers, and every package says what it is for.
//
// The test parses the sources itself. One that asked `go list` would be served
// from the test cache when a new file breaks a rule.
package archtest

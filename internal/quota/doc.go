// Package quota decides who may have how much: before anything is made, under
// one decision over a tenant's limits and the host's.
//
// Bottom up: [Amounts] are what is counted, in whole numbers, so that what is
// given back leaves exactly nothing. Allocate turns what a sandbox asks for into
// what it gets, with the reason for each number. [Book] holds who has what, and
// those who wait. A [Booking] is a place in it, whose Return may be repeated.
//
// Two sums are kept. A tenant's is over what its sandboxes were granted; it never
// exceeds the tenant's quota. The host's is over what they are expected to need:
// a share of the grant at first, then what they are measured to use with a
// margin. So capacity that is granted and idle is lent to others, and taken back
// as soon as its owner uses it: the sum may then exceed the host's capacity, and
// nothing new is admitted until it does not.
//
// What is granted of the processors is shared by weight; [TakeTurns] says who of
// those that run goes first.
//
// The package does no I/O and has no clock: every method is told the time. All
// methods may be called from any goroutine, and none blocks.
package quota

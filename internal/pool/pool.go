// Package pool keeps boxes ready before they are asked for.
//
// It declares the [Driver] it needs; package driver/gvisor and its siblings
// implement it.
package pool

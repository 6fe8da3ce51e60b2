// Package script is the service that runs JavaScript for tenants: it picks the
// lane, asks the memory guard, learns what programs need, keeps stored scripts
// and a small store for each tenant, and serves all of it over HTTP.
//
// Bottom up: package engine runs a program, package worker runs it in a process
// of its own, [Store] and [KeyValue] keep things, [Service] composes them, and
// [Service.Handler] is the HTTP side. A run begins in process when its program
// is provably small and was quick in a worker before, and is moved to a worker when
// it turns out not to be; the caller does not notice. docs/scripts.md says which programs run where and why.
//
// A Service may be used from any goroutine.
package script

// Command bulkhead is the whole product in one binary: the server, the command
// line, and, carried inside, gVisor's runtime and the process of every box.
//
// This is the tour for whoever works on it next, bottom-up. A package imports
// only lower layers; internal/archtest holds that.
//
//	0  bulkhead             the vocabulary: Sandbox, Template, Limits, End and its
//	                        Cause, Error and its Code. Types and tables only.
//	1  internal/boxrpc      the contract with the process in the box: ports, /init,
//	                        and the generated messages of E2B's services
//	   internal/forecast    how many boxes will be asked for
//	   internal/guard       whether there is memory for one more
//	   internal/quota       who has how much, who waits, and why
//	   internal/trace       where the time of a request goes
//	   internal/bundled     envd and runsc, carried in this binary
//	   internal/openapi     calls described beside what serves them, as a document
//	   internal/rate        how fast a key may ask
//	   internal/jsonbody    bodies of requests, and what is wrong with one in words
//	2  internal/pool        boxes that wait: declares the Driver and the Parts it
//	                        needs, makes boxes, keeps cold and warm ones, takes
//	                        snapshots
//	   internal/store       tenants, keys, sandboxes, usage, audit: durable, on
//	                        SQLite or PostgreSQL
//	   internal/resolver    answers name queries of boxes that may reach some domains
//	   internal/template    builds the images that boxes are made of
//	   internal/simulate    replays arrivals against the policies of pools
//	3  internal/supply      how many boxes wait: forecasts, memory, versions, pins
//	   internal/driver/…    gvisor, runc and fake: one contract, driver/drivertest
//	   internal/netslot     a network namespace for each box, isolated and shaped
//	   internal/cgroup      hard limits and what was used, on cgroup v1, v2, hybrid
//	4  internal/host        a slot and a cgroup, as the pool's Parts
//	   internal/doctor      what this host can enforce, found out by trying
//	   internal/script      JavaScript: engine in process, workers beside it
//	5  internal/node        this host: books, leases, binds, watches, ends, recovers
//	   client               the same over HTTP, for Go programs
//	6  internal/api         E2B's REST calls and our own /v1
//	   internal/proxy       the data plane: PORT-SANDBOX.DOMAIN, or two headers
//	   internal/authority   certificates
//	   internal/config      every option, one struct
//	7  internal/cli         the commands of a user
//	8  cmd/bulkhead         puts it together: serve.go is the map of what needs what
//	   cmd/envd             the process in the box; internal/envd, internal/interp
//	   cmd/runsc            gVisor's runtime
//
// # The way of one create
//
// api decodes and checks the key → node.Create books a place and asks
// pool.Acquire for a box: a warm one, a cold one to restore, or a new one → node
// binds it: limits and egress on the host (host.Part.Bind), then at once the row in
// the store and, in the box, what the request wants otherwise than the box was
// told while it waited (POST /init) → 201. From then on proxy.Proxy reaches the
// box by the address that node.Route gives it.
//
// # How a sandbox ends
//
// node.end is the only way: once, with a cause and its evidence. The sandbox is
// unreachable at once, its row says so when the call returns, and the box is torn
// down behind it. A box that dies by itself is noticed through its process
// (pool.Box.Gone) and its cgroup says why.
//
// # What survives what
//
// Boxes are processes of their own. After kill -9 of the server, node.Recover
// matches rows with what the driver finds: a row with a living box is taken back,
// a row without one is ended, a box without a row is destroyed. The order of
// writes makes that enough: a row is durable before a sandbox is acknowledged and
// ended before its box is torn down.
//
// # In the box
//
// envd (cmd/envd) is process 1. It is mounted read-only from the host, so that a
// new version needs no new templates. It says "ready" once on its standard
// output; nothing else it says is believed. The interpreter (internal/interp)
// runs inside envd: Python in a lean process of its own over a pipe, every other
// language as its Jupyter kernel.
package main

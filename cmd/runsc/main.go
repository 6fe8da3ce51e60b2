// Command runsc is gVisor's runtime as bulkhead carries it; see package
// internal/driver/gvisor/runsc for what it does differently.
package main

import "github.com/bulkheadhq/bulkhead/internal/driver/gvisor/runsc"

func main() { runsc.Main() }

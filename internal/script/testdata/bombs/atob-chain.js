// base64 of base64
// end: memory_limit
// memory: 16
let s = "x".repeat(3e5); for (;;) s = btoa(s)

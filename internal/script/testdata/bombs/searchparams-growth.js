// parameters without an end
// end: memory_limit
// memory: 16
const p = new URLSearchParams(); for (;;) p.append("key", "value".repeat(100))

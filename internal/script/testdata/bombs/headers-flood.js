// headers without an end
// end: memory_limit
// memory: 16
const h = new Headers(); for (let i = 0; ; i++) h.append("x" + i, "v".repeat(1000))

// a Set grows while it is iterated
// end: memory_limit
// memory: 16
const s = new Set([0]); for (const x of s) s.add(x + 1)

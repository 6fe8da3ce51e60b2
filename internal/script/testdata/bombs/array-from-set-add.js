// Array.from of a set's entries with its own add as the function
// end: memory_limit
const s = new Set([1]); Array.from(s.entries(), s.add, s); s.size

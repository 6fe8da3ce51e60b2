// Array.from with a map's own set as its function: each entry makes another
// end: memory_limit
const m = new Map([[1, 2]]); Array.from(m, m.set, m); m.size

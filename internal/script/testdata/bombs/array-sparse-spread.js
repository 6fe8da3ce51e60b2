// a sparse array of four billion is spread
// end: memory_limit
// memory: 8
const a = []; a.length = 4294967295; [...a].length

// squares of squares
// end: memory_limit
// memory: 8
let n = 3n; for (;;) n = n * n

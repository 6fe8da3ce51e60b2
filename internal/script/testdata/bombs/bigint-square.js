// squares of squares
// end: memory_limit
let n = 3n; for (;;) n = n * n

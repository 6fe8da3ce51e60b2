// an array is spread into itself
// end: memory_limit
let a = [1]; for (;;) a = [...a, ...a]

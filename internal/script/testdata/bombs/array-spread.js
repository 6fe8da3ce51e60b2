// an array is spread into itself
// end: memory_limit
// memory: 8
let a = [1]; for (;;) a = [...a, ...a]

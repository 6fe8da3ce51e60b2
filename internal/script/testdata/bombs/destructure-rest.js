// destructuring copies a growing array
// end: memory_limit
// memory: 16
let a = [1, 2]; for (;;) { const [x, ...rest] = a; a = rest.concat(rest, rest) }

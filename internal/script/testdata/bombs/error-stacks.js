// errors that keep their stacks
// end: memory_limit
const keep = []; function deep(n) { return n ? deep(n - 1) : new Error('x') } for (;;) keep.push(deep(200))

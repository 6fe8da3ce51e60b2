// symbols kept as keys
// end: memory_limit
const o = {}; for (;;) o[Symbol('a long description of a symbol')] = 1

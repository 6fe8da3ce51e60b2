// a prototype chain without an end
// end: memory_limit
let o = {}; for (;;) o = Object.create(o)

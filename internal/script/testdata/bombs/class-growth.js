// classes made in a loop
// end: memory_limit
const keep = []; for (;;) keep.push(class { a() { return 1 } b() { return 2 } })

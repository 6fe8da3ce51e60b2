// entries of a long string
// end: memory_limit
const keep = []; for (;;) keep.push(Object.entries('x'.repeat(1e5)))

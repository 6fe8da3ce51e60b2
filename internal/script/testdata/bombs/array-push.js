// an array grows for ever
// end: memory_limit
const a = []; for (;;) a.push([1, 2, 3])

// arguments objects kept
// end: memory_limit
const keep = []; function f() { keep.push(arguments) } for (;;) f(1, 2, 3, 4, 5, 6, 7, 8)

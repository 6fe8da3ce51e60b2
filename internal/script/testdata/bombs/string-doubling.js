// a string is appended to itself for ever
// end: memory_limit
let s = 'x'; for (;;) s += s

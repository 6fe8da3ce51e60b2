// concat with many copies of a growing string
// end: memory_limit
let s = 'x'.repeat(1000); for (;;) s = s.concat(s, s, s)

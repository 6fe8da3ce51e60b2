// split into characters, many times kept
// end: memory_limit
const keep = []; const s = 'x'.repeat(1e6); for (;;) keep.push(s.split(''))

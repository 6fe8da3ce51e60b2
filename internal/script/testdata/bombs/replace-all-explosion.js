// each character is replaced by a long text
// end: memory_limit
let s = 'x'.repeat(1e5); s.replaceAll('x', 'y'.repeat(1e6)).length

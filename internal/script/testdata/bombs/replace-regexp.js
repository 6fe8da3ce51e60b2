// a regular expression replaces every character by a long text
// end: memory_limit
let s = 'x'.repeat(1e5); s.replace(/x/g, 'y'.repeat(1e6)).length

// functions from text, kept
// end: memory_limit
const keep = []; for (let i = 0;; i++) keep.push(new Function('a', 'return a + ' + i + ';' + 'a++;'.repeat(50)))

// replacements that hold the whole subject again
// end: memory_limit
let s = 'x'.repeat(60000); s.replaceAll('x', '$`$\'').length

// a template literal repeats its own result
// end: memory_limit
let s = 'x'; for (;;) s = `${s}${s}${s}${s}${s}${s}${s}${s}`

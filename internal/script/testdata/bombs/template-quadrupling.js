// a template of four copies of itself
// end: memory_limit
let s = "ä".repeat(1e6); for (let i = 0; i < 40; i++) s = `${s}${s}${s}${s}`; s.length

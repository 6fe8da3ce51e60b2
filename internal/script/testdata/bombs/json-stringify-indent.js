// deep JSON with the widest indent, kept
// end: memory_limit
let a = [1]; for (let i = 0; i < 900; i++) a = [a, 1]; const keep = []; for (;;) keep.push(JSON.stringify(a, null, 10))

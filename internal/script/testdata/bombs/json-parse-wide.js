// small text, many objects, kept
// end: memory_limit
const t = '[' + '[],'.repeat(1e5) + '[]]'; const keep = []; for (;;) keep.push(JSON.parse(t))

// decoded text, kept
// end: memory_limit
// memory: 40
const b = new Uint8Array(16e6).fill(65); const keep = []; for (;;) keep.push(new TextDecoder().decode(b))

// many medium buffers, all written to
// end: memory_limit
const keep = []; for (;;) keep.push(new Uint8Array(1 << 20).fill(1))

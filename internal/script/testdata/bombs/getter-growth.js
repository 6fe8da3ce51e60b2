// a getter that keeps what it made
// end: memory_limit
const keep = []; const o = {get x() { keep.push(new Array(1000).fill(0)); return 1 }}; for (;;) o.x

// a comparator that keeps what it compares
// end: memory_limit
// memory: 16
const keep = []; const a = []; for (let i = 0; i < 20000; i++) a.push((i * 7919) % 20011); a.sort((x, y) => { keep.push([x, y, "k" + x + y]); return x - y }); for (;;) keep.push(a.slice())

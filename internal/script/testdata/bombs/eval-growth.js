// ever larger programs, all kept
// end: memory_limit
const keep = []; let s = 'x => x + 1;'; for (;;) { s += s; keep.push(eval('[' + s.replaceAll(';', ',') + ']')) }

// a callback that feeds its own forEach
// end: memory_limit
// memory: 16
const m = new Map([[0, 0]]); m.forEach((v, k) => { m.set(k + 1, new Array(10)); })

// Array.from of a proxy with an endless iterator
// end: memory_limit
// memory: 16
const it = new Proxy({}, { get(t, k) { return k === Symbol.iterator ? () => ({ next: () => ({ done: false, value: {} }) }) : undefined } }); Array.from(it).length

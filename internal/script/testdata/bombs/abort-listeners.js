// listeners without an end
// end: memory_limit
// memory: 16
const c = new AbortController(); for (let i = 0; ; i++) c.signal.addEventListener("abort", () => new Array(1000).fill(i))

// a generator that never ends is spread
// end: memory_limit
// memory: 16
[...(function* () { for (let i = 0;; i++) yield i })()]

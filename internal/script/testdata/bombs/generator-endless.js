// a generator that never ends is spread
// end: memory_limit
[...(function* () { for (let i = 0;; i++) yield i })()]

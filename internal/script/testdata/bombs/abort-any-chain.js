// signals that follow signals
// end: memory_limit
// memory: 16
let s = new AbortController().signal; for (;;) s = AbortSignal.any([s, s])

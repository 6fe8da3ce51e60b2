// a WeakMap whose keys are kept
// end: memory_limit
const w = new WeakMap(), keep = []; for (;;) { const k = {}; keep.push(k); w.set(k, [1, 2, 3, 4]) }

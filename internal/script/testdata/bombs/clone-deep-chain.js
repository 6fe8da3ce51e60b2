// structuredClone of a chain deeper than the stack
// end: exited 1 RangeError
let o = {}; for (let i = 0; i < 5000; i++) o = { o }; structuredClone(o)

// an object gains keys for ever
// end: memory_limit
const o = {}; for (let i = 0;; i++) o['k' + i] = i

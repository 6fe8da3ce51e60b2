// a length that only valueOf knows
// end: memory_limit
// memory: 16
let n = 0; "x".padEnd({ valueOf() { n++; return 2 ** 29 } }, "ab").length + n

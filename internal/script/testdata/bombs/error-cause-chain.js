// errors that are the cause of errors
// end: memory_limit
// memory: 16
let e = new Error("x"); for (;;) e = new Error("y".repeat(100), { cause: e })

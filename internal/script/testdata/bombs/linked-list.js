// a list without an end
// end: memory_limit
let head = null; for (;;) head = {head, data: [1, 2]}

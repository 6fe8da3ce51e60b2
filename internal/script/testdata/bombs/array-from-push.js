// Array.from with push as its function, of the array that it pushes to
// end: memory_limit
// memory: 16
const a = [1, 2]; Array.from(a, a.push, a); a.length

// strings from wide argument lists
// end: memory_limit
const keep = []; const codes = new Array(50000).fill(65); for (;;) keep.push(String.fromCharCode(...codes).repeat(50) + keep.length)

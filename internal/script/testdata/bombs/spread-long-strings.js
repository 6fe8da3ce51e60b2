// Math.max of many long strings: each is read as a number
// end: time_limit
// time: 1000
const a = new Array(32000).fill("1".repeat(1e6)); Math.max(...a)

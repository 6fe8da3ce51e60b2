// map with a built-in that takes milliseconds for each element
// end: time_limit
// time: 1000
const s = "1".repeat(1e6); new Array(32000).fill(s).map(Number).length

// sort with a built-in that takes milliseconds to compare
// end: time_limit
// time: 1000
const s = "1".repeat(1e6); new Array(32000).fill(s).sort(Math.max).length

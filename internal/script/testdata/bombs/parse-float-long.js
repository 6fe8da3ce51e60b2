// a number with a million digits, again and again
// end: time_limit
// time: 1000
const s = "1".repeat(1e6); let n = 0; for (let i = 0; i < 1e6; i++) n += parseFloat(s); n

// a set from many long strings: each is hashed
// end: time_limit
// time: 1000
const a = new Array(32000).fill("1".repeat(1e6)); const sets = []; for (let i = 0; i < 100; i++) sets.push(new Set(a)); sets.length

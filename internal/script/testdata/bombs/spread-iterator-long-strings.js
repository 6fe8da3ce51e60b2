// the same, from an iterator
// end: time_limit
// time: 1000
const s = "1".repeat(1e6); const m = new Map(new Array(32000).fill(s).map((x, i) => [i, x])); Math.max(...m.values())

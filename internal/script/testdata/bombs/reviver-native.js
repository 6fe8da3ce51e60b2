// JSON.parse with a built-in as its reviver
// end: time_limit
// time: 1000
const n = "1".repeat(200); JSON.parse("[" + new Array(1000).fill(`"${n}"`).join() + "]", Object); for (;;) JSON.parse("[" + new Array(1000).fill(`"${n}"`).join() + "]", Object)

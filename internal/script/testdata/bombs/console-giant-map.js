// a map that holds itself, to the console
// end: output_limit
const m = new Map(); for (let i = 0; i < 1e5; i++) m.set("k" + i, m); for (;;) console.log(m, "%s")

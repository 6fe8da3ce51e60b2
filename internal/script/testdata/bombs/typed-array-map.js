// maps and sorts of typed arrays
// end: time_limit
// time: 400
const a = new Uint8Array(8e6); for (;;) a.map(x => x + 1).sort()

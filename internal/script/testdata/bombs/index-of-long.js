// searching long strings that differ at their end
// end: time_limit
// time: 400
const s = 'x'.repeat(8e6), n = 'x'.repeat(8e6 - 1) + 'y', a = new Array(32000).fill(s); for (;;) a.indexOf(n)

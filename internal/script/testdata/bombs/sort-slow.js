// sorting long strings that differ at their end
// end: time_limit
// time: 800
const s = 'x'.repeat(8e6), t = [s + '1', s + '2'], a = []; for (let i = 0; i < 30000; i++) a.push(t[i % 2]); a.sort().length

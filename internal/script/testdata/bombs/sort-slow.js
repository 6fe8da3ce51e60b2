// sorting long strings that differ at their end
// end: time_limit
// time: 1500
const s = 'x'.repeat(1e7); const a = []; for (let i = 0; i < 30000; i++) a.push(i % 2 ? s + '1' : s + '2'); a.sort().length

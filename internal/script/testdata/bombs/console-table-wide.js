// tables of objects with very many columns
// end: time_limit
// time: 400
const row = {}; for (let i = 0; i < 20000; i++) row["c" + i] = { v: "x".repeat(100) }; const rows = []; for (let i = 0; i < 1000; i++) rows.push(row); for (;;) console.table(rows)

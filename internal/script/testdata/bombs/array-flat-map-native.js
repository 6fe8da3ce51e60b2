// flatMap with a built-in as its function
// end: memory_limit
// memory: 16
const row = new Array(32000).fill(1); const rows = new Array(32000).fill(row); rows.flatMap(Object).length

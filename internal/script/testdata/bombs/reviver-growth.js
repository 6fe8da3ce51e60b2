// JSON.parse with a reviver that grows what it visits
// end: memory_limit
JSON.parse("[1,2]", function (key, value) { if (this[+key + 1] !== undefined) this[+key + 1] = new Array(1000).fill([[1, 2]]); return value && value.length ? [value, new Array(100000).fill(value)] : value }); const kept = []; for (;;) kept.push(JSON.parse("[1,2,3]", (k, v) => [v, v, kept.length]))

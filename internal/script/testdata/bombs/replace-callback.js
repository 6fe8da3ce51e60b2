// a callback that lengthens each match
// end: memory_limit
// memory: 16
"a".repeat(1e6).replace(/a/g, () => "b".repeat(1000)).length

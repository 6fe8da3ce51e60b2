// a with scope around growth
// end: memory_limit
with ({a: []}) { for (;;) a.push([1]) }

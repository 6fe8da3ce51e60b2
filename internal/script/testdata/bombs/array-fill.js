// a large array is filled
// end: memory_limit
new Array(4e8).fill(0).length

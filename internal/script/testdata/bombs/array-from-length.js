// Array.from of a length
// end: memory_limit
// memory: 16
Array.from({length: 1e9}).length

// Array.from of a length
// end: memory_limit
Array.from({length: 1e9}).length

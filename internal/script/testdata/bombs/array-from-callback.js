// Array.from that makes objects
// end: memory_limit
Array.from({length: 1e8}, (_, i) => ({i})).length

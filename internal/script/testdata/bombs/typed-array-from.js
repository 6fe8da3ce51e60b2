// a typed array from an object that claims a length
// end: memory_limit
Uint8Array.from({length: 2e9}).length

// a Float64Array of a thousand million
// end: memory_limit
new Float64Array(1e9).length

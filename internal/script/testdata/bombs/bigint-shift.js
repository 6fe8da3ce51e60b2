// a shift by a thousand million million
// end: memory_limit
1n << (2n ** 50n)

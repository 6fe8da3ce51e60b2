// a power of a power
// end: memory_limit
2n ** (2n ** 40n)

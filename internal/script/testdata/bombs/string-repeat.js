// one call asks for a terabyte
// end: memory_limit
'x'.repeat(2 ** 40)

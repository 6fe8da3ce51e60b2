// one call asks for 4 GB
// end: memory_limit
'x'.repeat(4e9)

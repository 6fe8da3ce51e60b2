// padding to 3 GB with a long filler
// end: memory_limit
'x'.padEnd(3e9, 'abc')

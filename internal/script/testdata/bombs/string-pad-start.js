// padding to 3 GB
// end: memory_limit
'x'.padStart(3e9)

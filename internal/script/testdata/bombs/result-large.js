// a result beyond its limit
// end: output_limit
'x'.repeat(6 << 20)

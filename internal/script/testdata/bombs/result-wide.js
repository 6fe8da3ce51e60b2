// many small values as a result
// end: output_limit
new Array(1e6).fill('abcdef')

// many small values as a result
// end: output_limit
new Array(3e6).fill(1)

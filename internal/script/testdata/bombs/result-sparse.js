// a sparse array of four billion as a result
// end: output_limit
const a = []; a.length = 4294967295; a

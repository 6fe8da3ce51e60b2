// percent encoding trebles what is kept
// end: memory_limit
const keep = []; for (;;) keep.push(encodeURIComponent('ü'.repeat(1e5)))

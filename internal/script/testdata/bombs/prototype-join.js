// join replaced, then used by text conversion
// end: memory_limit
Array.prototype.join = function () { return 'x'.repeat(1e9) }; '' + [1]

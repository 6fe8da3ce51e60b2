// apply with an object that claims a length
// end: memory_limit
Math.max.apply(null, {length: 4e8})

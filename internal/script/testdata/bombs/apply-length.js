// apply with an object that claims a length
// end: memory_limit
// memory: 8
Math.max.apply(null, {length: 4e8})

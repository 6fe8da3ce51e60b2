// String.raw of an object that claims a length
// end: memory_limit
// memory: 16
String.raw({ raw: { length: 1e9, get 0() { return "x" } } }).length

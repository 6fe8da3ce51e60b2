// join of an object whose length is a getter
// end: memory_limit
// memory: 16
Array.prototype.join.call({ get length() { return 2 ** 31 } }, "xxxxxxxx").length

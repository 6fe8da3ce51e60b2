// the array iterator replaced by one that never ends
// end: memory_limit
// memory: 16
Array.prototype[Symbol.iterator] = function () { return {next: () => ({value: 1, done: false})} }; [...[1]]

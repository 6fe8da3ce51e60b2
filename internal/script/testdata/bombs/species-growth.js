// Symbol.species that gives back the same growing array
// end: memory_limit
// memory: 16
const all = []; class A extends Array { static get [Symbol.species]() { return function () { return all } } } const a = A.from({length: 1000}, (_, i) => i); for (;;) { a.concat(all.splice(0, 0, ...new Array(1000).fill(1))); all.length += 1000; all.fill(all.length) }

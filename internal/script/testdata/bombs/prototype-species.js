// a species that makes large arrays
// end: memory_limit
class A extends Array { static get [Symbol.species]() { return function (n) { return new Array(1e8).fill(0) } } } new A(3).map(x => x)

// a function bound to a bound one, a hundred thousand times
// end: memory_limit
// memory: 16
let f = () => 1; for (let i = 0; i < 100000; i++) f = f.bind(null); f()

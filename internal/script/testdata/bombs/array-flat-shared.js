// flattening a tree whose branches are shared
// end: memory_limit
// memory: 16
let a = [1, 1, 1, 1]; for (let i = 0; i < 20; i++) a = [a, a, a, a]; a.flat(Infinity).length

// structuredClone of a graph that doubles
// end: memory_limit
// memory: 8
let g = {a: new Array(1000).fill(1)}; for (let i = 0; i < 40; i++) g = {left: structuredClone(g), right: structuredClone(g)}; 1

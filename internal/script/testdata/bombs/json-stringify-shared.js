// JSON of a tree whose branches are shared
// end: memory_limit
// memory: 16
let a = ['xxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; JSON.stringify(a).length

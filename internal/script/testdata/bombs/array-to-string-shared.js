// the text of a tree whose branches are shared
// end: memory_limit
// memory: 16
let a = ['xxxxxxxxxxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; String(a).length

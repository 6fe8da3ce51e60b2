// a result whose branches are shared
// end: output_limit
let a = ['xxxxxxxx']; for (let i = 0; i < 40; i++) a = [a, a]; a

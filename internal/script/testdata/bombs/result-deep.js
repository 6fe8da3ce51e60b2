// a result nested without reason
// end: exited 1 TypeError
let a = []; for (let i = 0; i < 5000; i++) a = [a]; a

// a thenable that resolves to itself
// end: time_limit
// time: 400
const p = { then(r) { r(p) } }; await p

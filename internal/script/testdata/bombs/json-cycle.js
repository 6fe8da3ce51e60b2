// JSON of an object that holds itself
// end: exited 1 TypeError
const a = {}; a.self = a; JSON.stringify(a)

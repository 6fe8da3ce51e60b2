// an error that is its own cause
// end: exited 1 Error
const e = new Error("x"); e.cause = e; console.log(e); throw e

// async functions that wait for themselves
// end: exited 1 RangeError
async function f() { await f() } await f()

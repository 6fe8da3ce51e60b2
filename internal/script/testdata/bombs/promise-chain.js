// a promise that always starts another
// end: time_limit
// time: 400
function f() { return Promise.resolve().then(f) } f()

// a promise that always starts another
// end: time_limit
// time: 400
function f() { Promise.resolve().then(f) } f(); 1

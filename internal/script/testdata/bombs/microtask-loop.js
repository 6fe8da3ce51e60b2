// microtasks that queue microtasks
// end: time_limit
// time: 400
function f() { queueMicrotask(f) } f()

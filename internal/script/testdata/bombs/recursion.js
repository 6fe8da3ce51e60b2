// a function calls itself
// end: exited 1 RangeError
function f() { return f() + 1 } f()

// a finally block that cannot be left
// end: time_limit
// time: 400
function f() { for (;;) { try { return 1 } finally { continue } } } f()

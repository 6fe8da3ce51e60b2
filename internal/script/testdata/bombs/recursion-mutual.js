// two functions call each other
// end: exited 1 RangeError
function a() { return b() } function b() { return a() } a()

// a comparison sorts again
// end: exited 1 RangeError
function s() { return [2, 1].sort(s) ? 1 : 0 } s()

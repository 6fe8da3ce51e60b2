// a getter reads itself
// end: exited 1 RangeError
const o = {get x() { return this.x }}; o.x

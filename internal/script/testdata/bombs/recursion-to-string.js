// text conversion asks for itself
// end: exited 1 RangeError
const o = {toString() { return '' + o }}; '' + o

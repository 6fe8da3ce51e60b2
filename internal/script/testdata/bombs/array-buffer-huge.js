// a buffer that no machine has
// end: exited 1 RangeError
new ArrayBuffer(2 ** 50).byteLength

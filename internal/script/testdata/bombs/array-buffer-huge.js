// a buffer that no machine has
// end: memory_limit
new ArrayBuffer(2 ** 50).byteLength

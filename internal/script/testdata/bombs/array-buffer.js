// a buffer of 6 GiB
// end: memory_limit
new ArrayBuffer(6 * 2 ** 30).byteLength

// hashes of a large buffer
// end: time_limit
// time: 400
const b = new Uint8Array(30e6); for (;;) await crypto.subtle.digest("SHA-512", b)

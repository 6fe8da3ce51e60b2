// a proxy whose trap uses the proxy
// end: exited 1 RangeError
const p = new Proxy({}, {get(t, k, r) { return r[k] }}); p.x

// a proxy of a proxy, two hundred thousand deep
// end: memory_limit
let p = {}; for (let i = 0; i < 1e7; i++) p = new Proxy(p, {}); p.x

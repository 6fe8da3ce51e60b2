// a proxy with ever more keys
// end: memory_limit
// memory: 16
const p = new Proxy({}, {ownKeys() { const k = []; for (let i = 0;; i++) k.push('k' + i); return k }}); Object.keys(p)

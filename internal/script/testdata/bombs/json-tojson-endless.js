// toJSON that returns ever more
// end: memory_limit
// memory: 16
const o = {toJSON() { return [o2(), o2()] }}; function o2() { return {toJSON: o.toJSON, pad: 'x'.repeat(100)} } JSON.stringify(o)

// a proxy that claims a length
// end: time_limit
// time: 400
Array.prototype.forEach.call(new Proxy({}, {get: (t, k) => k === 'length' ? 2 ** 53 - 1 : 1, has: () => false}), Object)

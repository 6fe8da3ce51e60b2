// a proxy that has every name, in with
// end: time_limit
// time: 400
with (new Proxy({}, { has: () => true, get: (t, k) => k === Symbol.unscopables ? undefined : [k] })) { for (;;) x = y }

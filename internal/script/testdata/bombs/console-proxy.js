// the console is given a proxy with a million names
// end: time_limit
// time: 400
const p = new Proxy({}, { ownKeys: () => { const a = []; for (let i = 0; i < 1e6; i++) a.push("k" + i); return a }, getOwnPropertyDescriptor: () => ({ value: 1, enumerable: true, configurable: true }) }); for (;;) console.log(p)

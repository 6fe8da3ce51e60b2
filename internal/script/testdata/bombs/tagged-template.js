// a tagged template that grows with each call
// end: memory_limit
const all = []; const tag = (parts, ...values) => { all.push(parts.raw.concat(values)); return all }; for (;;) tag`${all.length}-${new Array(1000).fill(all.length)}`

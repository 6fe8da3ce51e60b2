// a thenable made of built-ins only
// end: time_limit
// time: 400
const o = {}; o.then = Promise.resolve.bind(Promise, o); Promise.resolve(o); 1

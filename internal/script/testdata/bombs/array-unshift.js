// elements of a hundred kilobytes from the front
// end: memory_limit
const a = []; for (let i = 0;; i++) a.unshift(('x' + i).repeat(20000))

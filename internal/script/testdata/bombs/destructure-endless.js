// destructuring of an iterator that never ends
// end: memory_limit
const [...all] = {[Symbol.iterator]: () => ({next: () => ({value: 1, done: false})})}; all.length

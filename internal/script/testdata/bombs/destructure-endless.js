// destructuring of an iterator that never ends
// end: memory_limit
// memory: 16
const [...all] = {[Symbol.iterator]: () => ({next: () => ({value: 1, done: false})})}; all.length

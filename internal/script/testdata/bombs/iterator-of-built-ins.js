// spread of an iterator made of built-ins
// end: memory_limit
// memory: 16
[...{[Symbol.iterator]: () => ({next: Object})}]

// spread of an iterator made of built-ins
// end: memory_limit
[...{[Symbol.iterator]: () => ({next: Object})}]

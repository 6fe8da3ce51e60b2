// structuredClone of a map, again and again
// end: memory_limit
// memory: 24
const m = new Map(); for (let i = 0; i < 50000; i++) m.set({ i }, { i }); const keep = []; for (;;) keep.push(structuredClone(m))

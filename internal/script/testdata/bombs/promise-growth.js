// promises that wait for ever
// end: memory_limit
// memory: 16
const keep = []; for (;;) keep.push(new Promise(() => {}).then(() => {}))

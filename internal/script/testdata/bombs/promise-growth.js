// promises that wait for ever
// end: memory_limit
const keep = []; for (;;) keep.push(new Promise(() => {}).then(() => {}))

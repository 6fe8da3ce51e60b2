// each microtask queues two
// end: memory_limit
// memory: 16
const grow = () => { queueMicrotask(grow); queueMicrotask(grow) }; grow()

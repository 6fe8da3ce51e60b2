// a result whose toJSON grows
// end: memory_limit
({toJSON() { const a = []; for (;;) a.push([1]) }})

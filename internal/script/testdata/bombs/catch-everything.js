// the program catches what ends it and goes on
// end: memory_limit
const a = []; for (;;) { try { for (;;) a.push([1]); } catch (e) { continue } }

// an async generator, written by hand, that never ends and keeps all
// end: memory_limit
const kept = []; const source = {[Symbol.asyncIterator]() { return this }, next() { return Promise.resolve({value: new Array(1000).fill(kept.length), done: false}) }}; async function main() { const it = source[Symbol.asyncIterator](); for (;;) kept.push((await it.next()).value) }

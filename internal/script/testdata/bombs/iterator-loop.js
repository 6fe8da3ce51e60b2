// for-of over an endless generator
// end: time_limit
// time: 400
for (const x of (function* () { for (;;) yield 1 })());

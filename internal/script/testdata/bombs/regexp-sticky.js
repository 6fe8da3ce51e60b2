// a sticky regular expression that backtracks
// end: time_limit
// time: 800
const r = /(?:(a+)+)\1$/y; r.test("a".repeat(40) + "b"); for (;;) { r.lastIndex = 0; r.test("a".repeat(40) + "b") }

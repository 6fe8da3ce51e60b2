// a regular expression that backtracks
// end: time_limit
// time: 400
/^(?=a)(a+)+$/.test('a'.repeat(60) + '!')

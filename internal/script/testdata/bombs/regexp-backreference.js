// a backreference that backtracks
// end: time_limit
// time: 400
/^(a*)*\1b$/.test('a'.repeat(60) + 'c')

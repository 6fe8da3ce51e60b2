// the decimal digits of a large number
// end: time_limit
// time: 800
(3n ** 3000000n).toString().length; for (;;) (3n ** 300000n).toString()

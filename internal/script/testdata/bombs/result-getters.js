// a result with a getter that never returns
// end: time_limit
// time: 400
({get x() { for (;;); }})

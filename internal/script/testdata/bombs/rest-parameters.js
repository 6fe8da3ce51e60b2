// a call spreads ever longer lists
// end: time_limit
// time: 800
function f(...a) { return a } let a = [1]; for (;;) a = f(...a, ...a)

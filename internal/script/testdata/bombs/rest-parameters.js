// a call spreads ever longer lists
// end: memory_limit
function f(...a) { return a } let a = [1]; for (;;) a = f(...a, ...a)

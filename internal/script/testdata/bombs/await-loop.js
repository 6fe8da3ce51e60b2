// awaiting in a loop without an end
// end: time_limit
// time: 400
for (;;) await null

// a loop that catches everything and finally goes on
// end: time_limit
// time: 400
for (;;) { try { for (;;) { throw 1 } } catch (e) {} finally { continue } }

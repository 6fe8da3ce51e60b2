// an empty loop
// end: time_limit
// time: 400
for (;;);

// more timers than may wait
// end: exited 1 TypeError
for (;;) setTimeout(() => {}, 1e6)

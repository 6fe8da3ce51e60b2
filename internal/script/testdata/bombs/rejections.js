// rejections that nobody handles
// end: time_limit
// time: 400
for (;;) Promise.reject(new Error("x".repeat(1000)))

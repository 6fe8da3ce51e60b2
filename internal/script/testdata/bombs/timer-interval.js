// an interval that is never cleared
// end: time_limit
// time: 400
setInterval(() => {}, 1)

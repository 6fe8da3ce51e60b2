// a timer a day away
// end: time_limit
// time: 400
setTimeout(() => {}, 864e5)

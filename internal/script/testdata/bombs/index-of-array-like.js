// indexOf in an object that claims a length
// end: time_limit
// time: 400
Array.prototype.indexOf.call({length: 2 ** 53 - 1}, 1)

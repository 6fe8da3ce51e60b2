// a built-in loops over nine thousand million million places
// end: time_limit
// time: 400
Array.prototype.forEach.call({length: 2 ** 53 - 1}, Object)

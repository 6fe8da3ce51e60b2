// default values that call their own function
// end: exited 1 RangeError
const f = ({ a = f({}), b = f({}) } = {}) => [a, b]; f()

// joining a hundred million holes
// end: memory_limit
Array(3e8).join('abcdefghij').length

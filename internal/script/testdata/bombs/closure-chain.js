// closures that hold closures
// end: memory_limit
let f = () => 0; for (;;) { const g = f; const data = [1, 2, 3, 4, 5]; f = () => g() + data.length }

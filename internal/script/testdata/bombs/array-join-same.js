// joining one large string many times
// end: memory_limit
const s = 'x'.repeat(1e6); const a = []; for (let i = 0; i < 1e5; i++) a.push(s); a.join('').length

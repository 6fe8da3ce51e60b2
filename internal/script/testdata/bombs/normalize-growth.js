// normalization that lengthens, kept
// end: memory_limit
// memory: 16
const keep = []; for (;;) keep.push('\ufdfa'.repeat(1e5).normalize('NFKD'))

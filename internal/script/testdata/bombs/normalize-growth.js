// normalization that lengthens, kept
// end: memory_limit
const keep = []; for (;;) keep.push('\ufdfa'.repeat(1e5).normalize('NFKD'))

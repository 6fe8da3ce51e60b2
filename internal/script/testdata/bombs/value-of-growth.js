// a comparison whose operand grows
// end: memory_limit
const keep = []; const o = {valueOf() { keep.push('x'.repeat(1e5) + keep.length); return 1 }}; while (o > 0);

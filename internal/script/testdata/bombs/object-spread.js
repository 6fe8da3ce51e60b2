// the characters of a long string become properties
// end: memory_limit
const s = 'x'.repeat(5e6); Object.keys({...s}).length

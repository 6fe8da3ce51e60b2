// a tag that joins its own text
// end: memory_limit
// memory: 16
const t = (s, ...v) => s.raw.join(v.join("")); let s = "ab"; for (;;) s = t`${s}|${s}|${s}`

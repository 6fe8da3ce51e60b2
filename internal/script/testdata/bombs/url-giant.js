// addresses of millions of characters
// end: memory_limit
// memory: 16
const s = "http://a/" + "%20".repeat(2e6); const keep = []; for (;;) keep.push(new URL(s).href)

// dates kept for ever
// end: memory_limit
const keep = []; for (;;) keep.push(new Date(), new Date(), new Date())

// the console is written to for ever
// end: output_limit
for (;;) console.log('x'.repeat(1000))

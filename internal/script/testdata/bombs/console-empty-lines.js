// empty lines for ever
// end: output_limit
for (;;) console.log('')

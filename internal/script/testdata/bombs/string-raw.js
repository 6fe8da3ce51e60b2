// String.raw of a template that says it is endless
// end: memory_limit
String.raw({raw: {length: 1e9, 0: "x"}}).length

// a million nested brackets
// end: memory_limit
JSON.parse('['.repeat(1e6) + ']'.repeat(1e6)).length

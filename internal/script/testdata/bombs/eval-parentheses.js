// source text that only opens parentheses
// end: memory_limit
eval('('.repeat(5e6))

// nested default parameters, for which the parser needs exponential time
// end: time_limit
// time: 400
(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=(a=1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1)=>1

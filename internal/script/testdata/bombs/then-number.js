// thousands of promises with a built-in that takes milliseconds
// end: time_limit
// time: 1000
const s = "1".repeat(1e6); for (let i = 0; i < 5000; i++) Promise.resolve(s).then(Number); new Promise(() => {}).then(() => 1)

// a result that nothing settles
// end: exited 1 Error
new Promise(() => {})

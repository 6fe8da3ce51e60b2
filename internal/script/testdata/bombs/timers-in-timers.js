// each timer sets twenty
// end: exited 1 TypeError
const grow = () => { for (let i = 0; i < 20; i++) setTimeout(grow, 0) }; grow()

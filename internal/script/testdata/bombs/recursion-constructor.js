// a constructor constructs
// end: exited 1 RangeError
class A { constructor() { this.a = new A() } } new A()

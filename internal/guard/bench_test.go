package guard

import "testing"

// BenchmarkLearn is an estimate before a run and an observation after it.
func BenchmarkLearn(b *testing.B) {
	l, err := NewLearner(100)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		k := l.Kind("x", 100)
		n, _ := k.Estimate(mib)
		k.Observe(n)
	}
}

package quota_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bulkheadhq/bulkhead/internal/quota"
)

// Who is in the background after four looks at the same use.
func TestTakeTurns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		used   [][2]float64 // limit, used
		cores  float64      // of a full host
		others float64
		want   []bool
	}{
		{"nothing runs", [][2]float64{{2, 0}, {1, 0}}, 0, 0, []bool{false, false}},
		{"one at its limit", [][2]float64{{1, 1}, {1, 0.1}}, 0, 0, []bool{true, false}},
		{"one keeps a core busy", [][2]float64{{4, 1}, {4, 0.3}}, 0, 0, []bool{true, false}},
		{"a small one at its limit", [][2]float64{{0.25, 0.24}, {4, 0.3}}, 0, 0, []bool{true, false}},
		{"two fill two cores", [][2]float64{{1, 0.9}, {1, 0.85}, {1, 0.15}}, 2, 0, []bool{true, true, false}},
		{"ten fill two cores", [][2]float64{
			{1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.19}, {1, 0.05},
		}, 2, 0, []bool{true, true, true, true, true, true, true, true, true, true, false}},
		{"a small one at its limit beside others", [][2]float64{{0.1, 0.1}, {2, 0.9}, {2, 0.85}, {2, 0.1}}, 2, 0, []bool{true, true, true, false}},
		{"two and the server fill two cores", [][2]float64{{1, 0.7}, {1, 0.7}, {1, 0.15}}, 2, 0, []bool{true, true, false}},
		{
			"one among many calm ones", append([][2]float64{{1, 0.9}}, slices.Repeat([][2]float64{{1, 0.02}}, 50)...), 2, 0,
			append([]bool{true}, make([]bool, 50)...),
		},
		{"two on a host that others use too", [][2]float64{{1, 0.5}, {1, 0.55}, {1, 0.1}}, 2, 0.8, []bool{true, true, false}},
		{"full of what is no sandbox", [][2]float64{{2, 0.2}, {1, 0}}, 2, 1.8, []bool{false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var turns []*quota.Turn
			for _, u := range tt.used {
				turns = append(turns, &quota.Turn{Limit: u[0], Used: u[1]})
			}
			quota.TakeTurns(turns, tt.cores, tt.others)
			for i, turn := range turns {
				if turn.Background {
					t.Errorf("sandbox %d is in the background after one look", i)
				}
			}
			for range 3 {
				quota.TakeTurns(turns, tt.cores, tt.others)
			}
			for i, turn := range turns {
				if turn.Background != tt.want[i] {
					t.Errorf("sandbox %d of %v: in the background %v, want %v", i, tt.used, turn.Background, tt.want[i])
				}
			}
		})
	}
}

// A sandbox that is done is in front again two looks later.
func TestTurnsEnd(t *testing.T) {
	hog := &quota.Turn{Limit: 2, Used: 1}
	all := []*quota.Turn{hog, {Limit: 2}}
	for range 3 {
		quota.TakeTurns(all, 0, 0)
	}
	if !hog.Background {
		t.Fatal("a hog is not in the background")
	}
	hog.Used = 0.5
	for range 3 {
		if quota.TakeTurns(all, 0, 0); !hog.Background {
			t.Error("in front at half of its due: it would go to and fro")
		}
	}
	hog.Used = 0
	for range 2 {
		quota.TakeTurns(all, 0, 0)
	}
	if hog.Background {
		t.Error("in the background when it is done")
	}
}

// On a host as the kernel shares it – those in front by weight, what they leave in
// even parts – nobody is starved, whatever the others want and may use: over time
// each has half at least of what weights alone would give it.
func TestTurnsStarveNobody(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		cores := float64(int(1) << r.IntN(6))
		want := make([]float64, 1+r.IntN(30))
		all := make([]*quota.Turn, len(want))
		for i := range all {
			limit := []float64{0.25, 0.5, 1, 2, 4}[r.IntN(5)]
			all[i] = &quota.Turn{Limit: limit}
			want[i] = limit * []float64{0.02, 0.1, 0.4, 1, 1}[r.IntN(5)]
		}
		fair := fill(cores, want, func(i int) float64 { return all[i].Limit })
		had := make([]float64, len(all))
		const looks = 400
		for range looks {
			front, back := make([]float64, len(want)), make([]float64, len(want))
			for i, turn := range all {
				if turn.Background {
					back[i] = want[i]
				} else {
					front[i] = want[i]
				}
			}
			first := fill(cores, front, func(i int) float64 { return all[i].Limit })
			left, sum := cores, 0.0
			for _, c := range first {
				left -= c
			}
			rest := fill(left, back, func(int) float64 { return 1 })
			for i, turn := range all {
				turn.Used = first[i] + rest[i]
				had[i] += turn.Used / looks
				sum += turn.Used
			}
			full := 0.0
			if sum > 0.95*cores {
				full = cores
			}
			quota.TakeTurns(all, full, 0)
		}
		for i, turn := range all {
			if had[i] < fair[i]/2 {
				t.Errorf("%v cores, sandbox %d of %d with limit %v wants %.2f, weights would give it %.3f, it had %.3f",
					cores, i, len(all), turn.Limit, want[i], fair[i], had[i])
			}
		}
	}
}

// fill gives each what it wants of the cores, and where they are too few, as much
// by weight as there is.
func fill(cores float64, want []float64, weight func(int) float64) []float64 {
	got := make([]float64, len(want))
	for range want {
		var weights float64
		for i, w := range want {
			if w-got[i] > 1e-9 {
				weights += weight(i)
			}
		}
		if weights == 0 || cores < 1e-9 {
			break
		}
		given := 0.0
		for i, w := range want {
			if w-got[i] > 1e-9 {
				g := math.Min(w-got[i], cores*weight(i)/weights)
				got[i] += g
				given += g
			}
		}
		cores -= given
	}
	return got
}

package proctree

import (
	"testing"
	"unicode/utf8"
)

// FuzzParse: a program chooses its own name, so any bytes may be between the
// parentheses.
func FuzzParse(f *testing.F) {
	f.Add([]byte("7 (a) R 9 (b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 4 0 100 4096 3 99\n"))
	f.Add([]byte("7 ()) S"))
	f.Add([]byte(") 1 ("))
	f.Fuzz(func(t *testing.T, stat []byte) {
		p, ok := parse(stat)
		if ok && (p.Pid <= 0 || p.Threads < 1 || p.Resident < 0 || !utf8.ValidString(p.Name)) {
			t.Errorf("%q gave %+v", stat, p)
		}
	})
}

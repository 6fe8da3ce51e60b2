package interp

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// framed returns messages as they stand in the pipe.
func framed(messages ...string) []byte {
	var b []byte
	for _, m := range messages {
		b = binary.BigEndian.AppendUint32(b, uint32(len(m)))
		b = append(b, m...)
	}
	return b
}

// TestFrames cuts the same stream in every way: the messages are the same.
func TestFrames(t *testing.T) {
	stream := framed("one", "", strings.Repeat("x", 50), "two", strings.Repeat("y", 11), "three")
	want := []string{"one", "", "!50", "two", "!11", "three"}
	for size := 1; size <= len(stream); size++ {
		var got []string
		f := frames{max: 10}
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			f.feed(rest[:n],
				func(p []byte) { got = append(got, string(p)) },
				func(n int64) { got = append(got, "!"+string(rune('0'+n/10))+string(rune('0'+n%10))) })
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("in pieces of %d (-want +got):\n%s", size, diff)
		}
	}
}

// FuzzFrames: whatever comes, in whatever pieces, messages are bounded, memory is,
// and the pieces make no difference.
func FuzzFrames(f *testing.F) {
	f.Add(framed("a", "bc", strings.Repeat("z", 300)), uint8(3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3}, uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		const limit = 100
		split := func(size int) (got [][]byte, over []int64) {
			fr := frames{max: limit}
			for rest := stream; len(rest) > 0; {
				n := min(size, len(rest))
				fr.feed(rest[:n],
					func(p []byte) { got = append(got, bytes.Clone(p)) },
					func(n int64) { over = append(over, n) })
				rest = rest[n:]
				if len(fr.buf) > limit+frameHeader {
					t.Fatalf("%d bytes are kept", len(fr.buf))
				}
			}
			return got, over
		}
		whole, wholeOver := split(len(stream) + 1)
		pieces, piecesOver := split(int(cut) + 1)
		if diff := cmp.Diff(whole, pieces); diff != "" {
			t.Errorf("messages of the whole and of pieces (-whole +pieces):\n%s", diff)
		}
		if diff := cmp.Diff(wholeOver, piecesOver); diff != "" {
			t.Errorf("long messages of the whole and of pieces (-whole +pieces):\n%s", diff)
		}
		for _, m := range whole {
			if len(m) > limit {
				t.Errorf("a message has %d bytes", len(m))
			}
		}
	})
}

// FuzzText: the text of a stream is valid UTF-8, and that of valid UTF-8 is the
// stream itself, in whatever pieces it comes.
func FuzzText(f *testing.F) {
	f.Add("é😀", uint8(1))
	f.Add("a\xc3", uint8(2))
	f.Add("\xf0\x9f\x98\xff\xf0", uint8(1))
	f.Fuzz(func(t *testing.T, s string, cut uint8) {
		var (
			x   text
			got strings.Builder
		)
		for rest := []byte(s); len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			piece := x.next(rest[:n])
			if !utf8.ValidString(piece) {
				t.Fatalf("piece %q is not valid", piece)
			}
			got.WriteString(piece)
			rest = rest[n:]
		}
		end := x.end()
		if !utf8.ValidString(end) {
			t.Fatalf("end %q is not valid", end)
		}
		got.WriteString(end)
		if utf8.ValidString(s) && got.String() != s {
			t.Errorf("text is %q, want %q", got.String(), s)
		}
	})
}

// FuzzLeanReader: a kernel may send anything.
func FuzzLeanReader(f *testing.F) {
	f.Add([]byte(`{"ev":"result","data":{"text/plain":"'a'","x":1}}`))
	f.Add([]byte(`{"ev":"error","name":"A","value":"b","traceback":"c"}`))
	f.Add([]byte(`{"ev":"done","count":-5}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		rec := &recorder{}
		k := &lean{log: Config{}.or().Log, ready: make(chan struct{})}
		k.run.Store(&leanRun{sink: rec, ended: make(chan struct{})})
		r := &leanReader{k: k, ours: [ends]int{-1, -1, -1, -1}}
		r.handle(p)
		r.handle(p)
		for _, e := range rec.events {
			checkEvent(t, e)
		}
	})
}

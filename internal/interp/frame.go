package interp

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// frames splits what the lean kernel writes into messages: four bytes of length,
// big-endian, and as many bytes of JSON. A message longer than max is skipped,
// and memory grows with what has arrived, never with what was announced.
type frames struct {
	max  int
	buf  []byte // the beginning of a message that is not whole yet
	skip int64  // bytes that are still to be dropped
}

const frameHeader = 4

// feed takes the next bytes and calls whole for each message in them, valid
// during the call only, and oversize with the length of each that is too long.
func (f *frames) feed(p []byte, whole func([]byte), oversize func(int64)) {
	for len(p) > 0 || len(f.buf) >= frameHeader {
		if f.skip > 0 {
			n := min(f.skip, int64(len(p)))
			f.skip -= n
			p = p[n:]
			if f.skip > 0 {
				return
			}
			continue
		}
		if len(f.buf) < frameHeader {
			n := min(frameHeader-len(f.buf), len(p))
			f.buf = append(f.buf, p[:n]...)
			p = p[n:]
			if len(f.buf) < frameHeader {
				return
			}
		}
		size := int64(binary.BigEndian.Uint32(f.buf))
		if size > int64(f.max) {
			oversize(size)
			f.buf, f.skip = f.buf[:0], size
			continue
		}
		if len(f.buf) == frameHeader && int64(len(p)) >= size { // all of it is here
			f.buf = f.buf[:0]
			whole(p[:size])
			p = p[size:]
			continue
		}
		n := min(int(size)+frameHeader-len(f.buf), len(p))
		f.buf = append(f.buf, p[:n]...)
		p = p[n:]
		if len(f.buf) < int(size)+frameHeader {
			return
		}
		whole(f.buf[frameHeader:])
		f.buf = f.buf[:0]
		if cap(f.buf) > 1<<20 { // a picture now and then must not be paid for for ever
			f.buf = nil
		}
	}
}

// leanMessage is what a lean kernel says; see kernel/kernel.py.
type leanMessage struct {
	Ev        string                     `json:"ev"`
	Data      map[string]json.RawMessage `json:"data"`
	Name      string                     `json:"name"`
	Value     string                     `json:"value"`
	Traceback string                     `json:"traceback"`
	Count     int                        `json:"count"`
	Size      int64                      `json:"size"`
	Skipped   []struct {
		Entry string `json:"entry"`
		Error string `json:"error"`
	} `json:"skipped"`
	Failed string `json:"failed"`
}

// text turns a stream of bytes into valid UTF-8 without tearing apart a rune
// that arrives in two reads.
type text struct{ rest []byte }

// next returns what of p can be told by now.
func (t *text) next(p []byte) string {
	if len(t.rest) > 0 {
		p = append(t.rest, p...)
	}
	keep := 0
	for i := 1; i <= min(utf8.UTFMax-1, len(p)); i++ {
		if c := p[len(p)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-i:]) {
				keep = i
			}
			break
		}
	}
	t.rest = append(t.rest[:0:0], p[len(p)-keep:]...)
	return strings.ToValidUTF8(string(p[:len(p)-keep]), "\uFFFD")
}

// end returns what was held back, as nothing follows it.
func (t *text) end() string {
	s := strings.ToValidUTF8(string(t.rest), "\uFFFD")
	t.rest = nil
	return s
}

package interp

import (
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
	"github.com/google/go-cmp/cmp"
)

// answerFrames returns a kernel's message in answer to a request.
func answerFrames(key, typ, parent, content string) [][]byte {
	parts := [][]byte{
		[]byte(`{"msg_type":"` + typ + `"}`), []byte(`{"msg_id":"` + parent + `"}`), []byte("{}"), []byte(content),
	}
	return append([][]byte{[]byte("topic"), delimiter, sign(key, parts)}, parts...)
}

// TestMessages: what is encoded can be decoded, and nothing else.
func TestMessages(t *testing.T) {
	frames, id, err := encodeMessage("key", "session", "execute_request", executeRequest{Code: "1"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeMessage("key", frames)
	if err != nil || m.Type != "execute_request" || !strings.Contains(string(m.Content), `"code":"1"`) || id == "" {
		t.Errorf("decoded %+v, %v", m, err)
	}
	m, err = decodeMessage("key", answerFrames("key", "stream", "id", `{"text":"x"}`))
	want := jupyterMessage{Type: "stream", Parent: "id", Content: []byte(`{"text":"x"}`)}
	if diff := cmp.Diff(want, m); diff != "" || err != nil {
		t.Errorf("decoded %v (-want +got):\n%s", err, diff)
	}
	for name, bad := range map[string][][]byte{
		"nothing":         nil,
		"no delimiter":    {[]byte("a"), []byte("b")},
		"cut off":         answerFrames("key", "stream", "id", "{}")[:5],
		"wrong key":       answerFrames("other", "stream", "id", "{}"),
		"header no JSON":  resign("key", "{", "{}"),
		"parent no JSON":  resign("key", "{}", "["),
		"empty signature": {delimiter, nil, []byte("{}"), []byte("{}"), []byte("{}"), []byte("{}")},
	} {
		if m, err := decodeMessage("key", bad); !errors.Is(err, errMessage) {
			t.Errorf("%s: decoded %+v, %v", name, m, err)
		}
	}
}

func resign(key, header, parent string) [][]byte {
	parts := [][]byte{[]byte(header), []byte(parent), []byte("{}"), []byte("{}")}
	return append([][]byte{delimiter, sign(key, parts)}, parts...)
}

// TestFilter: a frame that is too long arrives empty, and the ones after it whole.
func TestFilter(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		theirs, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer theirs.Close()
		conn, err := zmq4.Open(theirs, null.Security(), zmq4.Router, nil, true, nil)
		if err != nil {
			served <- err
			return
		}
		for _, frames := range [][]string{
			{"a", "b"},
			{"short", strings.Repeat("x", 2000), "tail"},
			{strings.Repeat("y", 300), "z"},
			{strings.Repeat("w", 1001)},
			{"last"},
		} {
			msg := make([][]byte, len(frames))
			for i, f := range frames {
				msg[i] = []byte(f)
			}
			if err := conn.SendMsg(zmq4.NewMsgFrom(msg...)); err != nil {
				served <- err
				return
			}
		}
		served <- nil
	}()
	ours, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	c, err := openChannel(ours, zmq4.Dealer, "id", 1000)
	if err != nil {
		t.Fatal(err)
	}
	type received struct {
		Frames  []string
		Dropped int64
	}
	var got []received
	for range 5 {
		frames, dropped, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		r := received{Dropped: dropped}
		for _, f := range frames {
			r.Frames = append(r.Frames, string(f))
		}
		got = append(got, r)
	}
	want := []received{
		{[]string{"a", "b"}, 0},
		{[]string{"short", "", "tail"}, 2000},
		{[]string{strings.Repeat("y", 300), "z"}, 0},
		{[]string{""}, 1001},
		{[]string{"last"}, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// canned is a connection that says what it was given and swallows what it hears.
type canned struct {
	net.Conn
	r *bytes.Reader
}

// Read implements [net.Conn].
func (c canned) Read(p []byte) (int, error) { return c.r.Read(p) }

// Write implements [net.Conn].
func (canned) Write(p []byte) (int, error) { return len(p), nil }

// SetWriteDeadline implements [net.Conn].
func (canned) SetWriteDeadline(time.Time) error { return nil }

// FuzzChannel: a kernel's socket may say anything, from the greeting on.
func FuzzChannel(f *testing.F) {
	hello := make([]byte, zmtpGreeting)
	hello[0], hello[9], hello[10] = 0xff, 0x7f, 3
	copy(hello[12:], "NULL")
	ready := "\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"
	hello = append(hello, 4, byte(len(ready)))
	hello = append(hello, ready...)
	f.Add(append(bytes.Clone(hello), "\x01\x01a\x00\x01b"...))
	f.Add(append(bytes.Clone(hello), "\x02\xff\xff\xff\xff\xff\xff\xff\xffabc"...))
	f.Add(append(bytes.Clone(hello), bytes.Repeat([]byte{1, 0}, 100)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 100
		c, err := openChannel(canned{r: bytes.NewReader(data)}, zmq4.Dealer, "id", limit)
		if err != nil {
			return
		}
		for {
			frames, _, err := c.receive()
			if err != nil {
				return
			}
			if len(frames) > zmtpMaxFrames {
				t.Fatalf("a message has %d frames", len(frames))
			}
			for _, f := range frames {
				if len(f) > limit {
					t.Fatalf("a frame has %d bytes", len(f))
				}
			}
			_, _ = decodeMessage("key", frames)
		}
	})
}

// FuzzJupyter: a kernel may answer anything that is signed.
func FuzzJupyter(f *testing.F) {
	f.Add("stream", "id", []byte(`{"name":"stdout","text":"x"}`))
	f.Add("status", "id", []byte(`{"execution_state":"idle"}`))
	f.Add("execute_reply", "id", []byte(`{"status":"error","ename":"E"}`))
	f.Add(fenceType, "fence", []byte(`{"id":"x"}`))
	f.Fuzz(func(t *testing.T, typ, parent string, content []byte) {
		rec := &recorder{}
		k := &jupyter{log: Config{}.or().Log, key: "key"}
		k.run = &jupyterRun{id: "id", fence: "fence", fenceID: "x", sink: rec, ended: make(chan struct{})}
		m := jupyterMessage{Type: typ, Parent: parent, Content: content}
		for range 2 {
			k.published(m)
			k.replied(m)
		}
		for _, e := range rec.events {
			checkEvent(t, e)
		}
	})
}

package interp

import (
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// pythonProgram is the Python side of the lean lane.
//
//go:embed kernel/kernel.py
var pythonProgram []byte

// ipython makes the lean kernel run Python.
type ipython struct {
	python  string // the interpreter
	program string // the path of kernel/kernel.py in the box
}

var _ leanLanguage = ipython{}

func (p ipython) command(leanConfig) (argv []string, stdin bool) {
	return []string{p.python, "-X", "utf8", p.program}, false
}

func (ipython) start(c leanConfig) ([]byte, error) {
	return frame(leanRequest{Op: "start", Preload: c.preload, Warmup: c.warmup, Limit: c.limit})
}

func (ipython) run(req Request) ([]byte, error) {
	if req.Touch {
		return frame(leanRequest{Op: "touch"})
	}
	return frame(leanRequest{Op: "run", Code: req.Code, Env: req.Env})
}

func (ipython) rebind(b binding) ([]byte, error) {
	return frame(leanRequest{Op: "rebind", Env: b.env, Seed: hex.EncodeToString(b.seed)})
}

// every gives code that cleans up after an interrupt the time to do so.
func (ipython) every(grace time.Duration) time.Duration { return max(grace/2, 1) }

// leanRequest is what kernel/kernel.py is asked.
type leanRequest struct {
	Op      string            `json:"op"`
	Code    string            `json:"code"`
	Env     map[string]string `json:"env,omitempty"`
	Seed    string            `json:"seed,omitempty"`
	Preload []string          `json:"preload,omitempty"`
	Warmup  string            `json:"warmup,omitempty"`
	Limit   int               `json:"limit,omitempty"`
}

// frame encodes v as a message.
func frame(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if len(data) > math.MaxUint32 {
		return nil, fmt.Errorf("encode request: %d bytes; a message has at most %d", len(data), uint32(math.MaxUint32))
	}
	out := binary.BigEndian.AppendUint32(make([]byte, 0, frameHeader+len(data)), uint32(len(data))) //nolint:gosec // checked
	return append(out, data...), nil
}

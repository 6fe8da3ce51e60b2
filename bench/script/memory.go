package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"

	"github.com/dop251/goja"

	"github.com/bulkheadhq/bulkhead/bench/results"
	"github.com/bulkheadhq/bulkhead/internal/script"
	"github.com/bulkheadhq/bulkhead/internal/script/engine"
)

// memory measures what 100,000 objects need here, in bare goja with its export,
// and in Node.
func memory(ctx context.Context, r *results.Report, s *services, node string) error {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rt := goja.New()
	v, err := rt.RunString(objects)
	if err != nil {
		return err
	}
	exported := v.Export()
	text, err := json.Marshal(exported)
	if err != nil {
		return err
	}
	runtime.ReadMemStats(&after)
	bare := float64(after.TotalAlloc-before.TotalAlloc) / (1 << 20)
	live := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	runtime.KeepAlive(v)
	runtime.KeepAlive(exported)
	runtime.KeepAlive(text)
	r.Add(single("100,000 objects, bare goja and Export: allocated", "MiB", bare, 1), nil)
	r.Add(single("100,000 objects, bare goja and Export: heap", "MiB", live, 1), nil)
	res, err := s.on.Execute(ctx, tenant, script.Request{Code: objects, Limits: engine.Limits{MemoryMB: 256, TimeMS: 60_000, ResultBytes: 32 << 20}}, nil)
	if err == nil && res.End.ExitCode != 0 {
		err = errors.New(res.End.String())
	}
	if err != nil {
		return err
	}
	x := single("100,000 objects here: peak ("+res.Lane+")", "MiB", float64(res.Usage.PeakBytes)/(1<<20), 1)
	x.Peer, x.Ratio = "the seed's 140 MB", 140/(float64(res.Usage.PeakBytes)/1e6)
	r.Add(x, nil)
	for _, mb := range []int64{24, 32, 40, 48, 64, 80, 96, 128, 192} {
		res, err := s.on.Execute(ctx, tenant, script.Request{Code: objects, Limits: engine.Limits{MemoryMB: mb, TimeMS: 60_000, ResultBytes: 32 << 20}}, nil)
		if err != nil {
			return err
		}
		if res.End.ExitCode == 0 {
			x := single("100,000 objects here: least limit that does", "MiB", float64(mb), 1)
			x.Peer, x.Ratio = "the seed's 140 MB", 140/(float64(mb)*1.048576)
			r.Add(x, nil)
			break
		}
	}
	r.Add(single("100,000 objects here: size of the result", "MiB", float64(len(res.Outcome.Result))/(1<<20), 1), nil)
	out, err := exec.CommandContext(ctx, node, "--expose-gc", "-e", `gc(); const b = process.memoryUsage().heapUsed;
		const v = require("vm").runInNewContext(`+"`"+objects+"`"+`); const t = JSON.stringify(v);
		console.log((process.memoryUsage().heapUsed - b) / 1048576)`).Output()
	var used float64
	if err == nil {
		_, err = fmt.Sscan(string(out), &used)
	}
	if err != nil {
		r.Printf("   Node is left out: %v\n", err)
		return nil
	}
	r.Add(single("100,000 objects, Node vm: heap", "MiB", used, 1), nil)
	return nil
}

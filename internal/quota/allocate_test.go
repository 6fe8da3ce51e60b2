package quota_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/quota"
)

func TestLoadFactor(t *testing.T) {
	for _, tt := range []struct{ cpu, memory, factor float64 }{
		{0, 0, 1}, {1, 0.2, 1}, {1, 0.21, 0.85}, {0.8, 0.8, 0.85}, {0.81, 0.8, 0.7}, {1, 1, 0.7},
	} {
		if got := (bulkhead.Load{CPU: tt.cpu, Memory: tt.memory}).Factor(); got != tt.factor {
			t.Errorf("%v and %v: %v, want %v", tt.cpu, tt.memory, got, tt.factor)
		}
	}
}

func TestPriorityOf(t *testing.T) {
	for _, tt := range []struct {
		tier int
		wish bulkhead.Priority
		want int
	}{{1, "", 1}, {4, "normal", 4}, {1, "low", 1}, {3, "low", 2}, {1, "high", 3}, {4, "high", 6}, {0, "", 2}} {
		if got := quota.PriorityOf(tt.tier, tt.wish); got != tt.want {
			t.Errorf("tier %d, %q: %d, want %d", tt.tier, tt.wish, got, tt.want)
		}
	}
}

// What each combination of tier, load and limits gives, and why.
func TestAllocation(t *testing.T) {
	for name, tt := range map[string]struct {
		asked      bulkhead.Limits
		multiplier float64
		quota      bulkhead.Quota
		load       float64
		firm       bool
		floor      int64
		cpu        float64
		memory     int64
		says       string // in the reasons, joined
		refused    string // the limit
	}{
		"as it is":                     {multiplier: 1, cpu: 2, memory: 1024},
		"no tier":                      {cpu: 2, memory: 1024},
		"free":                         {multiplier: 0.5, cpu: 1, memory: 512, says: "2 cores × 0.5 for tier T"},
		"premium":                      {multiplier: 1.5, cpu: 3, memory: 1536},
		"asked is the base":            {asked: bulkhead.Limits{CPU: 1, MemoryMB: 300}, multiplier: 2, cpu: 2, memory: 600},
		"busy":                         {multiplier: 1, load: 0.7, cpu: 1.7, memory: 870, says: "× 0.85 for the host's load of 70 %"},
		"very busy":                    {multiplier: 0.5, load: 0.9, cpu: 0.7, memory: 358, says: "2 cores × 0.5 for tier T × 0.7 for the host's load of 90 %"},
		"firm":                         {multiplier: 1, load: 0.9, firm: true, cpu: 2, memory: 1024},
		"not below the floor":          {multiplier: 0.5, load: 0.9, floor: 500, cpu: 0.7, memory: 500, says: "not below what the template needs"},
		"the floor is not a gift":      {asked: bulkhead.Limits{MemoryMB: 200}, multiplier: 0.5, floor: 500, cpu: 1, memory: 200},
		"cut to one sandbox's limit":   {multiplier: 2, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{CPU: 3, MemoryMB: 1500}}, cpu: 3, memory: 1500, says: "cut to the tenant's limit for one sandbox, 3 cores"},
		"cut to the tenant's limit":    {multiplier: 2, quota: bulkhead.Quota{CPU: 3}, cpu: 3, memory: 2048, says: "the tenant's limit for all its sandboxes"},
		"default cut":                  {multiplier: 1, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{MemoryMB: 400}}, cpu: 2, memory: 400},
		"host":                         {multiplier: 10, cpu: 20, memory: 8000, says: "cut to all that this host has, 8000 MiB"},
		"asked by name is not cut":     {asked: bulkhead.Limits{MemoryMB: 2000}, multiplier: 1, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{MemoryMB: 400}}, refused: "tenant.sandbox.memoryMB"},
		"nor is another field":         {asked: bulkhead.Limits{Pids: 2000}, multiplier: 1, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{Pids: 400}}, refused: "tenant.sandbox.pids"},
		"a multiplier may make it fit": {asked: bulkhead.Limits{MemoryMB: 800}, multiplier: 0.5, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{MemoryMB: 400}}, cpu: 1, memory: 400},
		"what a multiplier made":       {asked: bulkhead.Limits{MemoryMB: 2001}, multiplier: 0.5, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{MemoryMB: 400}}, refused: "tenant.sandbox.memoryMB", says: "2001 MiB × 0.5 for tier T"},
		"would not run":                {multiplier: 1, floor: 500, quota: bulkhead.Quota{Sandbox: bulkhead.Limits{MemoryMB: 400}}, refused: "tenant.sandbox.memoryMB"},
		"beyond the host":              {asked: bulkhead.Limits{MemoryMB: 9000}, multiplier: 1, refused: "host.memoryMB"},
	} {
		t.Run(name, func(t *testing.T) {
			b := quota.New(quota.Config{})
			h := host(8000)
			h.Load = bulkhead.Load{CPU: tt.load, Memory: tt.load}
			b.See(start, h)
			k, err := b.Offer(start, quota.Request{
				Sandbox: "i1", Tenant: "t", Tier: bulkhead.Tier{Name: "T", Multiplier: tt.multiplier, Priority: 3, Quota: tt.quota},
				Asked: tt.asked, Defaults: bulkhead.DefaultLimits(), FloorMB: tt.floor, Firm: tt.firm, TTL: time.Minute, Priority: bulkhead.PriorityHigh,
			})
			if tt.refused != "" {
				code := bulkhead.CodeQuotaExceeded
				if strings.HasPrefix(tt.refused, "host.") {
					code = bulkhead.CodeInvalid
				}
				if e := refused(t, err, code, tt.refused); !e.Limit.Never || !strings.Contains(e.Msg, tt.says) {
					t.Errorf("%s: %+v", e.Msg, e.Limit)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			a := k.Allocation()
			if a.Limits.CPU != tt.cpu || a.Limits.MemoryMB != tt.memory || a.Priority != 5 || a.TTLSeconds != 60 || a.Sandbox != "i1" || a.Tenant != "t" {
				t.Errorf("%+v", a)
			}
			var says []string
			for _, r := range a.Reasons {
				says = append(says, r.Detail)
				if r.Asked == r.Granted || r.Detail == "" {
					t.Errorf("an empty reason: %+v", r)
				}
			}
			if all := strings.Join(says, "; "); !strings.Contains(all, tt.says) {
				t.Errorf("reasons %q lack %q", all, tt.says)
			}
			base := tt.asked.Or(bulkhead.DefaultLimits())
			if changed := a.Limits != base; changed != (len(a.Reasons) > 0) {
				t.Errorf("changed %v with reasons %+v", changed, a.Reasons)
			}
		})
	}
}

func TestTimeToLive(t *testing.T) {
	r := want("a", 64, bulkhead.Quota{TTLSeconds: 60})
	a := mustOffer(t, quota.New(quota.Config{}), start, r).Allocation()
	if a.TTLSeconds != 60 || len(a.Reasons) != 1 || a.Reasons[0].Field != "ttlSeconds" || a.Reasons[0].Asked != 3600 {
		t.Errorf("%+v", a)
	}
}

// Whatever is asked of whatever tier, what is granted is in range and within the
// limits, or refused by a limit that is named.
func FuzzAllocation(f *testing.F) {
	f.Add(1.0, int64(512), 0.5, 2.0, int64(1024), 0.9, int64(100))
	f.Add(64.0, int64(1<<20), 10.0, 0.05, int64(64), 0.1, int64(1<<20))
	f.Fuzz(func(t *testing.T, cpu float64, memory int64, multiplier, eachCPU float64, eachMemory int64, load float64, floor int64) {
		asked := bulkhead.Limits{CPU: cpu, MemoryMB: memory}
		each := bulkhead.Limits{CPU: eachCPU, MemoryMB: eachMemory}
		if asked.Validate() != nil || each.Validate() != nil || !(multiplier >= 0.1 && multiplier <= 10) || floor < 0 || floor > 1<<20 || math.IsNaN(load) {
			t.Skip()
		}
		b := quota.New(quota.Config{})
		h := host(8000)
		h.Load = bulkhead.Load{CPU: load, Memory: load}
		b.See(start, h)
		k, err := b.Offer(start, quota.Request{
			Tenant: "t", Tier: bulkhead.Tier{Multiplier: multiplier, Quota: bulkhead.Quota{Sandbox: each}},
			Asked: asked, Defaults: bulkhead.DefaultLimits(), FloorMB: floor, TTL: time.Minute,
		})
		if err != nil {
			if e, ok := err.(*bulkhead.Error); !ok || e.Limit == nil || !e.Limit.Never { //nolint:errorlint // not wrapped
				t.Fatalf("refused with %v", err)
			}
			return
		}
		l := k.Allocation().Limits
		if l.Validate() != nil || eachCPU > 0 && l.CPU > eachCPU+1e-3 || eachMemory > 0 && l.MemoryMB > eachMemory || l.MemoryMB > 8000 {
			t.Fatalf("granted %+v of %+v within %+v", l, asked, each)
		}
	})
}

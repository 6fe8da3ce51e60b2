package config

import (
	"time"

	"github.com/bulkheadhq/bulkhead"
	"github.com/bulkheadhq/bulkhead/internal/forecast"
)

// Pools are the options of the boxes that wait. Their defaults are the starting
// configuration that docs/pools.md explains.
type Pools struct {
	// Warm says how many boxes wait, per template.
	Warm map[string]string `name:"warm" env:"BULKHEAD_WARM" help:"Boxes that wait ready, as TEMPLATE=WARM or TEMPLATE=WARM/COLD: a pinned size, until 'bulkhead pool set' sets another. Of other templates the forecast decides."`
	// PoolForecast lets the forecast decide.
	PoolForecast bool `name:"pool-forecast" env:"BULKHEAD_POOL_FORECAST" default:"true" negatable:"" help:"Let boxes wait of every template that is used, as many as the forecast says; without it only pinned templates have a pool."`
	// PoolTemplates have a pool before anybody asks for them.
	PoolTemplates []string `name:"pool-template" env:"BULKHEAD_POOL_TEMPLATES" default:"code-interpreter-v1" help:"Templates that have a pool from the first start on; others get one once they are asked for."`
	// The bounds of a template in use.
	PoolMinWarm int `name:"pool-min-warm" env:"BULKHEAD_POOL_MIN_WARM" default:"2" help:"Least warm boxes of a template in use: asked for within the last hour, or a --pool-template."`
	PoolMaxWarm int `name:"pool-max-warm" env:"BULKHEAD_POOL_MAX_WARM" default:"10" help:"Most warm boxes of one template; 0 to 256."`
	PoolMinCold int `name:"pool-min-cold" env:"BULKHEAD_POOL_MIN_COLD" default:"3" help:"Least cold boxes of a template in use."`
	PoolMaxCold int `name:"pool-max-cold" env:"BULKHEAD_POOL_MAX_COLD" default:"15" help:"Most cold boxes of one template; 0 to 256."`
	// PoolWaitPrice is what the forecast weighs memory against.
	PoolWaitPrice float64 `name:"pool-wait-price" env:"BULKHEAD_POOL_WAIT_PRICE" default:"3e7" help:"MB·s of idle memory that are as bad as one second of one caller's wait; less keeps fewer boxes."`
	// PoolMemory and PoolReserve bound the memory of waiting boxes.
	PoolMemory  int64 `name:"pool-memory-mb" env:"BULKHEAD_POOL_MEMORY_MB" default:"0" help:"Most memory, in MiB, that the warm boxes of all pools may take; 0 is a quarter of the host's."`
	PoolReserve int64 `name:"pool-reserve-mb" env:"BULKHEAD_POOL_RESERVE_MB" default:"1024" help:"Available memory, in MiB, below which pools shrink, on top of that below which sandboxes are refused: --reserve-memory-mb, or what --memory-guard-max leaves."`
	// The timings of upkeep.
	PoolMaintenance time.Duration `name:"pool-maintenance" env:"BULKHEAD_POOL_MAINTENANCE" default:"5m" help:"How often every pool's size is decided anew; a pool that is asked for follows at once."`
	PoolModelUpdate time.Duration `name:"pool-model-update" env:"BULKHEAD_POOL_MODEL_UPDATE" default:"30m" help:"How often what the forecast has learned is stored; at a clean stop it is, too."`
	PoolMaxAge      time.Duration `name:"pool-max-age" env:"BULKHEAD_POOL_MAX_AGE" default:"1h" help:"Age from which a waiting box is replaced, once its successor waits."`
	PoolCheck       time.Duration `name:"pool-check" env:"BULKHEAD_POOL_CHECK" default:"30s" help:"How often waiting boxes are asked for their health and measured."`
	// RefillParallel is how many boxes are made ahead at once.
	RefillParallel int `name:"refill-parallel" env:"BULKHEAD_REFILL_PARALLEL" default:"0" help:"Boxes made ahead at once; 0 is half the cores. On a busy host it is one, with rests, and none while a request waits."`
}

// Bounds are those of a template in use.
func (p *Pools) Bounds() forecast.Bounds {
	return forecast.Bounds{MinWarm: p.PoolMinWarm, MaxWarm: p.PoolMaxWarm, MinCold: p.PoolMinCold, MaxCold: p.PoolMaxCold}
}

// validate checks what the tags cannot.
func (p *Pools) validate() error {
	invalid := func(format string, args ...any) error { return bulkhead.Errorf(bulkhead.CodeInvalid, format, args...) }
	switch {
	case p.RefillParallel < 0 || p.RefillParallel > 64:
		return invalid("--refill-parallel is %d; it must be between 0 and 64", p.RefillParallel)
	case !(p.PoolWaitPrice >= 0 && p.PoolWaitPrice <= 1e12):
		return invalid("--pool-wait-price is %v; it must be between 0 and 1e12", p.PoolWaitPrice)
	case p.PoolMemory < 0 || p.PoolReserve < 0:
		return invalid("--pool-memory-mb is %d and --pool-reserve-mb is %d; neither may be negative", p.PoolMemory, p.PoolReserve)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"maintenance", p.PoolMaintenance}, {"model-update", p.PoolModelUpdate}, {"max-age", p.PoolMaxAge}, {"check", p.PoolCheck},
	} {
		if d.value < time.Second || d.value > 24*time.Hour {
			return invalid("--pool-%s is %s; it must be between 1s and 24h", d.name, d.value)
		}
	}
	if err := p.Bounds().Validate(); err != nil {
		return invalid("--pool-min-warm, --pool-max-warm, --pool-min-cold, --pool-max-cold: %s", bulkhead.Message(err))
	}
	return nil
}

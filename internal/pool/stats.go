package pool

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// Why a request got less than a warm box. The set is closed.
const (
	// MissEmpty: the pool's warm boxes were all taken.
	MissEmpty = "empty"
	// MissUnpooled: no warm box of the template should have been waiting.
	MissUnpooled = "unpooled"
	// MissDisk: the request has a disk of its own size, which is part of a box's
	// making; MissFiles the same for its number of open files.
	MissDisk  = "disk"
	MissFiles = "open_files"
)

// Why a box that waited was destroyed unused. The set is closed.
const (
	// WasteSurplus: there were more than the target.
	WasteSurplus = "surplus"
	// WasteOld: it had waited for longer than the age that boxes may reach.
	WasteOld = "old"
	// WasteDead: its main process was gone.
	WasteDead = "dead"
	// WasteSick: it did not answer when asked for its health.
	WasteSick = "sick"
)

// Stats is what the pool of one template did since the server was started, and
// what is in it.
type Stats struct {
	// Template is the template's name, Digest what it stands for now.
	Template string `json:"template"`
	Digest   string `json:"digest"`
	// Warm and Cold are boxes that wait, Leased those that were given away and are
	// not destroyed yet, Making those on their way, Retiring those of an earlier
	// version of the template, which count in Warm and Cold too.
	Warm     int `json:"warm"`
	Cold     int `json:"cold"`
	Leased   int `json:"leased"`
	Making   int `json:"making"`
	Retiring int `json:"retiring"`
	// Target is how many boxes there should be, and why.
	Target Target `json:"target"`
	// Hits counts requests by the stage of the box they got.
	Hits map[Stage]int64 `json:"hits"`
	// Misses counts requests that got less than a warm box, by reason: "empty",
	// "unpooled", "disk", "open_files".
	Misses map[string]int64 `json:"misses"`
	// Handed counts those of the misses that got a box which became warm while
	// they waited.
	Handed int64 `json:"handed"`
	// Wasted counts boxes that were destroyed without having been used, by reason:
	// "surplus", "old", "dead", "sick". Failed counts those that could not be made.
	Wasted map[string]int64 `json:"wasted"`
	Failed int64            `json:"failed"`
	// Created and Restored count boxes that were made cold and warm, for the pool
	// or for a request, CreateSeconds and RestoreSeconds the time it took in all.
	Created        int64   `json:"created"`
	Restored       int64   `json:"restored"`
	CreateSeconds  float64 `json:"createSeconds"`
	RestoreSeconds float64 `json:"restoreSeconds"`
	// CreateTime and RestoreTime are what one takes by the latest measurements, 0
	// before the first.
	CreateTime  time.Duration `json:"createTimeNs"`
	RestoreTime time.Duration `json:"restoreTimeNs"`
	// WarmMB and ColdMB are the memory of one box that waits, in MB of 10⁶ bytes,
	// by the latest measurements, 0 before the first.
	WarmMB float64 `json:"warmMB"`
	ColdMB float64 `json:"coldMB"`
	// WarmSeconds and ColdSeconds are how long boxes have waited, in all; IdleMBs
	// is their memory times that, in MB·s.
	WarmSeconds float64 `json:"warmSeconds"`
	ColdSeconds float64 `json:"coldSeconds"`
	IdleMBs     float64 `json:"idleMBs"`
	// Image is the template's snapshot.
	Image Image `json:"image"`
}

// ledger counts what happens to one template, over all its versions.
type ledger struct{ Stats }

// measured moves an average a quarter of the way to a new value.
func measured[T time.Duration | float64](avg *T, v T) {
	if *avg == 0 {
		*avg = v
		return
	}
	*avg += (v - *avg) / 4
}

func (l *ledger) took(stage Stage, d time.Duration) {
	if stage == StageCold {
		l.Created++
		l.CreateSeconds += d.Seconds()
		measured(&l.CreateTime, d)
		return
	}
	l.Restored++
	l.RestoreSeconds += d.Seconds()
	measured(&l.RestoreTime, d)
}

// ledgerLocked returns the books of the template with the name.
func (p *Pool) ledgerLocked(name string) *ledger {
	l := p.ledgers[name]
	if l == nil {
		l = &ledger{}
		l.Template = name
		l.Hits, l.Misses, l.Wasted = map[Stage]int64{}, map[string]int64{}, map[string]int64{}
		p.ledgers[name] = l
	}
	return l
}

// bookLocked books the time for which the boxes on the shelves have waited. It is
// called before any comes or goes.
func (p *Pool) bookLocked(now time.Time) {
	for _, s := range p.shelves {
		dt := max(0, now.Sub(s.booked).Seconds())
		warm, cold := float64(len(s.warm))*dt, float64(len(s.cold))*dt
		s.ledger.WarmSeconds += warm
		s.ledger.ColdSeconds += cold
		s.ledger.IdleMBs += warm*s.ledger.WarmMB + cold*s.ledger.ColdMB
		s.booked = now
	}
}

// Stats returns those of every template that the pool has had to do with, sorted
// by name. A template that is gone keeps its counts and has no digest.
func (p *Pool) Stats() []Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bookLocked(time.Now())
	all := make([]Stats, 0, len(p.ledgers))
	for _, l := range p.ledgers {
		st := l.Stats
		st.Hits, st.Misses, st.Wasted = maps.Clone(l.Hits), maps.Clone(l.Misses), maps.Clone(l.Wasted)
		for _, s := range p.shelves {
			if s.ledger != l {
				continue
			}
			st.Warm += len(s.warm)
			st.Cold += len(s.cold)
			st.Making += s.warming + s.chilling
			if s.dropped {
				st.Retiring += len(s.warm) + len(s.cold)
				continue
			}
			st.Digest, st.Target = s.template.Digest, s.target
			st.Image = p.imageLocked(s)
		}
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b Stats) int { return cmp.Compare(a.Template, b.Template) })
	return all
}

// Waiting says how many boxes of exactly this version of a template wait, and why
// no more could be made, if the last attempt failed.
func (p *Pool) Waiting(t bulkhead.Template) (warm, cold int, failed string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelves[t.Digest]
	if s == nil {
		return 0, 0, ""
	}
	return len(s.warm), len(s.cold), s.failed
}

// imageLocked describes the snapshot of a shelf's template.
func (p *Pool) imageLocked(s *shelf) Image {
	can, ready := p.cfg.Maker.snapshots(s.template)
	img := Image{State: ImageNone}
	switch {
	case !can:
		img.State = ImageUnsupported
	case ready:
		img = p.cfg.Maker.Snapshots.image(s.template)
	case s.imaging:
		img.State, img.Error = ImageTaking, s.failed
	case s.failed != "":
		img.State, img.Error = ImageFailed, s.failed
	}
	return img
}

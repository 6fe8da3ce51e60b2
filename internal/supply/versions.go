package supply

import (
	"slices"
	"strings"
	"time"

	"github.com/bulkheadhq/bulkhead"
)

// refreshLocked notes which templates there are. If they are others than the last
// time, it drops the boxes of those that are gone, and returns the versions whose
// snapshots are of use.
func (p *Planner) refreshLocked(list []bulkhead.Template, now time.Time) (use []bulkhead.Template, changed bool) {
	there := map[string]bool{}
	for _, t := range list {
		there[t.Name] = true
		p.noteLocked(t, now)
	}
	for _, e := range p.entries {
		if e.there && !there[e.name] {
			p.cfg.Log.Info("the template is gone, and with it its pool", "template", e.name)
			e.there, e.next, e.until = false, nil, time.Time{}
		}
		if e.there {
			use = append(use, e.current)
			if e.next != nil {
				use = append(use, *e.next)
			}
		}
	}
	digests := make([]string, len(use))
	for i, t := range use {
		digests[i] = t.Digest
	}
	slices.Sort(digests)
	known := strings.Join(digests, " ")
	if known == p.known {
		return use, false
	}
	p.known = known
	p.cfg.Boxes.Retain(use)
	return use, true
}

// noteLocked notes what a name stands for now. A version that differs from the
// one that is served waits until it has boxes, if the other has some.
func (p *Planner) noteLocked(t bulkhead.Template, now time.Time) *entry {
	e := p.entryLocked(t.Name)
	switch {
	case !e.there:
		e.current, e.there, e.next = t, true, nil
		e.until = time.Time{}
	case e.current.Digest == t.Digest:
		if e.next != nil { // the name was pointed back
			e.next = nil
		}
	case e.next != nil && e.next.Digest == t.Digest:
	default:
		warm, _, _ := p.cfg.Boxes.Waiting(e.current)
		if warm == 0 {
			e.current, e.next = t, nil
			break
		}
		e.next, e.rollEnd = &t, now.Add(rollTime)
		p.cfg.Log.Info("a new version of the template: its boxes are made first", "template", t.Name, "from", e.current.Digest, "to", t.Digest)
	}
	return e
}

// roll makes the next version the current one once it has as many warm boxes as
// are needed, can have none, or has taken too long.
func (p *Planner) roll(e *entry, now time.Time) {
	if e.next == nil {
		return
	}
	old, _, _ := p.cfg.Boxes.Waiting(e.current)
	warm, _, failed := p.cfg.Boxes.Waiting(*e.next)
	switch {
	case warm >= min(e.target.Warm, old):
	case failed != "":
		p.cfg.Log.Error("the new version of the template makes no boxes", "template", e.name, "digest", e.next.Digest, "why", failed)
	case now.After(e.rollEnd):
		p.cfg.Log.Warn("the new version of the template is slow to make boxes; it serves from now on", "template", e.name, "digest", e.next.Digest)
	default:
		return
	}
	p.cfg.Log.Info("the new version of the template serves", "template", e.name, "digest", e.next.Digest, "warm", warm)
	e.current, e.next = *e.next, nil
}

// Versions are templates as they are served: a name stands for its last version
// only once there are boxes of it, if there are some of the version before. It
// implements [Templates]; a digest always finds its own version.
type Versions struct {
	// Planner knows which version serves, Templates has them all.
	Planner   *Planner
	Templates Templates
}

var _ Templates = Versions{}

// Get returns the template of that name, ID or digest, or CodeNotFound.
func (v Versions) Get(nameOrID string) (bulkhead.Template, error) {
	t, err := v.Templates.Get(nameOrID)
	if err != nil || strings.HasPrefix(nameOrID, "sha256:") {
		return t, err //nolint:wrapcheck // it is the caller's question
	}
	return v.Planner.serving(t), nil
}

// List returns all templates, in their last versions.
func (v Versions) List() ([]bulkhead.Template, error) {
	return v.Templates.List() //nolint:wrapcheck // it is the caller's question
}

// serving returns the version of t that serves under its name.
func (p *Planner) serving(t bulkhead.Template) bulkhead.Template {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[t.Name]
	if e == nil || !e.there || e.current.Digest == t.Digest && e.next == nil {
		return t
	}
	e = p.noteLocked(t, time.Now())
	return e.current
}

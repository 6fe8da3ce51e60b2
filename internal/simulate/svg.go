package simulate

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The picture's layout, in pixels.
const (
	svgWidth  = 1000
	plotLeft  = 70
	plotRight = 190 // room for the legend
	plotTop   = 50
	plotHigh  = 220
	plotGap   = 60
)

var palette = []string{"#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0", "#1b6e5a", "#b0413e", "#5b3a8c", "#b8a100", "#2f4858", "#d98fd0"}

// WriteSVG draws the report: what each policy pays in memory and in waits, and
// what happened over time.
func (r *Report) WriteSVG(w io.Writer) error {
	var p picture
	p.begin(svgWidth, plotTop+3*plotHigh+3*plotGap, r.Trace)
	p.tradeoff(r)
	p.overTime(r, 1, "idle memory, MB", func(t *timeline, b int) float64 { return t.idleNS[b] / float64(t.width) })
	p.overTime(r, 2, "claims per second, and those that found no warm box", nil)
	p.text("</svg>\n")
	if _, err := io.WriteString(w, p.out.String()); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	return nil
}

// picture is an SVG under construction.
type picture struct{ out strings.Builder }

func (p *picture) text(format string, args ...any) { fmt.Fprintf(&p.out, format, args...) }

func (p *picture) begin(width, height int, title string) {
	p.text(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	p.text(`<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	p.label(plotLeft, 24, "start", title)
}

func (p *picture) label(x, y float64, anchor, s string) {
	p.text(`<text x="%.1f" y="%.1f" text-anchor="%s" fill="#333">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
}

func (p *picture) line(x1, y1, x2, y2 float64) {
	p.text(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#999"/>`+"\n", x1, y1, x2, y2)
}

// frame draws the axes of plot i and returns its corners.
func (p *picture) frame(i int, title string) (left, top, right, bottom float64) {
	left, right = plotLeft, svgWidth-plotRight
	top = float64(plotTop + i*(plotHigh+plotGap))
	bottom = top + plotHigh
	p.line(left, top, left, bottom)
	p.line(left, bottom, right, bottom)
	p.label(left, top-8, "start", title)
	return left, top, right, bottom
}

func (p *picture) legend(i int, y float64, name string) {
	c := palette[i%len(palette)]
	x := float64(svgWidth - plotRight + 20)
	p.text(`<rect x="%.1f" y="%.1f" width="10" height="10" fill="%s"/>`+"\n", x, y-9, c)
	p.label(x+16, y, "start", name)
}

// leastMB is where the memory axis begins; who has less is drawn there.
const leastMB = 100

// tradeoff plots mean wait against mean idle memory, both by their logarithms.
func (p *picture) tradeoff(r *Report) {
	left, top, right, bottom := p.frame(0, "mean wait, ms, against mean idle memory, MB (both logarithmic; down and left is better)")
	idle := func(x *Result) float64 { return math.Max(leastMB, x.Idle()/math.Max(r.Span.Seconds(), 1e-9)) }
	wait := func(x *Result) float64 { return math.Max(0.1, float64(x.WaitMean)/1e6) }
	var xs, ys axis
	for _, x := range r.Results {
		xs.include(math.Log10(idle(x)))
		ys.include(math.Log10(wait(x)))
	}
	xs.whole()
	ys.whole()
	for e := xs.low; e <= xs.high; e++ {
		x := xs.place(e, left, right)
		p.line(x, bottom, x, bottom+4)
		p.label(x, bottom+18, "middle", fmt.Sprintf("%g", math.Pow(10, e)))
	}
	for e := ys.low; e <= ys.high; e++ {
		y := ys.place(e, bottom, top)
		p.line(left-4, y, left, y)
		p.label(left-8, y+4, "end", fmt.Sprintf("%g", math.Pow(10, e)))
	}
	for i, x := range r.Results {
		cx, cy := xs.place(math.Log10(idle(x)), left, right), ys.place(math.Log10(wait(x)), bottom, top)
		p.text(`<circle cx="%.1f" cy="%.1f" r="5" fill="%s"/>`+"\n", cx, cy, palette[i%len(palette)])
		p.label(cx+8, cy-4, "start", x.Policy)
		p.legend(i, top+14*float64(i+1), x.Policy)
	}
}

// overTime plots a value of every policy over time; without value, the claims
// and what of them the policies failed.
func (p *picture) overTime(r *Report, plot int, title string, value func(*timeline, int) float64) {
	left, top, right, bottom := p.frame(plot, title)
	if len(r.Results) == 0 {
		return
	}
	width := float64(r.Results[0].timeline.width) / 1e9
	if value == nil {
		value = func(t *timeline, b int) float64 { return float64(t.misses[b]) / width }
	}
	var ys axis
	ys.include(0)
	for _, x := range r.Results {
		for b := range buckets {
			ys.include(value(&x.timeline, b))
			if plot == 2 {
				ys.include(float64(x.timeline.claims[b]) / width)
			}
		}
	}
	p.label(left-8, top+4, "end", fmt.Sprintf("%.3g", ys.high))
	p.label(left-8, bottom+4, "end", "0")
	p.label(right, bottom+18, "end", span(r.Span))
	curve := func(color string, f func(b int) float64) {
		p.text(`<polyline fill="none" stroke="%s" stroke-width="1.2" points="`, color)
		for b := range buckets {
			p.text("%.1f,%.1f ", left+(right-left)*float64(b)/(buckets-1), ys.place(f(b), bottom, top))
		}
		p.text(`"/>` + "\n")
	}
	if plot == 2 {
		curve("#ddd", func(b int) float64 { return float64(r.Results[0].timeline.claims[b]) / width })
	}
	for i, x := range r.Results {
		curve(palette[i%len(palette)], func(b int) float64 { return value(&x.timeline, b) })
	}
}

// axis is a range of values.
type axis struct {
	low, high float64
	any       bool
}

func (a *axis) include(v float64) {
	if !a.any {
		a.low, a.high, a.any = v, v, true
	}
	a.low, a.high = min(a.low, v), max(a.high, v)
}

// whole widens the range to whole numbers.
func (a *axis) whole() {
	a.low, a.high = math.Floor(a.low), math.Max(math.Ceil(a.high), math.Floor(a.low)+1)
}

// place maps v to between from and to.
func (a *axis) place(v, from, to float64) float64 {
	if a.high <= a.low {
		return from
	}
	return from + (to-from)*(v-a.low)/(a.high-a.low)
}

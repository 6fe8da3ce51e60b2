package script

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/go-sourcemap/sourcemap"

	"github.com/bulkheadhq/bulkhead/internal/script/worker"
)

// build is TypeScript as JavaScript, and the way back.
type build struct {
	code string
	head int // columns of the first line that are not the source's
	// places is the map of places; nil if there is none that can be read.
	places func() *sourcemap.Consumer
}

// newBuild keeps a build. Its map is read when a place is asked for first.
func newBuild(made worker.Built) *build {
	return &build{code: made.Code, head: made.Head, places: sync.OnceValue(func() (c *sourcemap.Consumer) {
		defer func() {
			if recover() != nil { // it came from a worker
				c = nil
			}
		}()
		if c, err := sourcemap.Parse("", []byte(made.Map)); err == nil {
			return c
		}
		return nil
	})}
}

// place matches a place in the JavaScript, also as goja's own stacks write it.
var place = regexp.MustCompile(`script\.js:(\d+):(\d+)(?:\(\d+\))?`)

// positions replaces the places of the JavaScript in a text by those of its
// TypeScript.
func (b *build) positions(text string) string {
	if !strings.Contains(text, "script.js:") || b.places() == nil {
		return text
	}
	return place.ReplaceAllStringFunc(text, func(at string) string {
		m := place.FindStringSubmatch(at)
		line, _ := strconv.Atoi(m[1])
		column, _ := strconv.Atoi(m[2])
		_, _, line, column, ok := b.places().Source(line, column-1) // of a line, maps count from 0
		if !ok {
			return at
		}
		if line == 1 {
			column = max(0, column-b.head)
		}
		return fmt.Sprintf("script.ts:%d:%d", line, column+1)
	})
}

// told returns a result as the author of the source reads it.
func (b *build) told(res Result) Result {
	if f := res.Failure; b != nil && f != nil {
		mapped := *f
		mapped.Stack = b.positions(f.Stack)
		res.Failure = &mapped
	}
	return res
}

package interp

import (
	"encoding/binary"
	"maps"
	"slices"
)

// binding is what a lease gives a kernel.
type binding struct {
	env  map[string]string
	seed []byte
}

// variables writes the code that sets environment variables in a kernel whose
// language has to do it by itself.
type variables struct {
	lang  language
	base  map[string]string // what the process was started with
	bound map[string]string // what the last lease added
}

// lease returns the lines that give the kernel what a lease does.
func (v *variables) lease(b *binding) []string {
	v.bound = b.env
	lines := v.set(b.env)
	if v.lang.seed != nil && len(b.seed) >= 8 {
		lines = append(lines, v.lang.seed(binary.BigEndian.Uint64(b.seed)))
	}
	return lines
}

// set returns the lines that set the variables of one execution.
func (v *variables) set(env map[string]string) []string {
	if v.lang.set == nil {
		return nil
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		lines = append(lines, v.lang.set(name, env[name]))
	}
	return lines
}

// reset returns the lines that undo set.
func (v *variables) reset(env map[string]string) []string {
	if v.lang.set == nil {
		return nil
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value, ok := v.bound[name]
		if !ok {
			value, ok = v.base[name]
		}
		if ok {
			lines = append(lines, v.lang.set(name, value))
		} else {
			lines = append(lines, v.lang.unset(name))
		}
	}
	return lines
}

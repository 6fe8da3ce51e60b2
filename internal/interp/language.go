package interp

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// language is what has to be known of a language beyond how it is started. One
// that is not in the table works as well, without variables per execution.
type language struct {
	// specs are the names of kernelspecs that serve it, best first. The lean lane
	// needs none.
	specs []string
	// env is added to the kernel's environment.
	env map[string]string
	// set and unset return code that changes an environment variable.
	set   func(name, value string) string
	unset func(name string) string
	// seed returns code that seeds the language's random numbers.
	seed func(seed uint64) string
	// fence returns code that makes the kernel broadcast a message of type
	// fenceType with the given id, in order with the output. It is nil where a
	// kernel's word that an execution has ended can be relied on.
	fence func(id string) string
	// message says that the kernel is interrupted by a message, whatever its spec
	// says.
	message bool
}

// fenceType is the type of the message that a fence broadcasts.
const fenceType = "bulkhead_fence"

// The languages that are known by more than their kernelspec. Python and bash run
// in the lean lane.
const (
	python     = "python"
	javascript = "javascript"
	typescript = "typescript"
	shell      = "bash"
)

// aliases are other names of languages.
var aliases = map[string]string{
	"": python, "py": python, "python3": python,
	"js": javascript, "deno": javascript, "ts": typescript,
	"sh": shell, "shell": shell,
}

// languages is the table of languages by name.
var languages = map[string]language{
	javascript: deno,
	typescript: deno,
	shell: {
		set:   func(name, value string) string { return "export " + name + "=" + shellQuote(value) },
		unset: func(name string) string { return "unset " + name },
		seed:  func(seed uint64) string { return "RANDOM=" + strconv.FormatUint(seed&0x7fff, 10) },
	},
	"r": {
		specs: []string{"ir", "r"},
		set: func(name, value string) string {
			return fmt.Sprintf("do.call(Sys.setenv, setNames(list(%s), %s))", jsonQuote(value), jsonQuote(name))
		},
		unset: func(name string) string { return "Sys.unsetenv(" + jsonQuote(name) + ")" },
		seed:  func(seed uint64) string { return fmt.Sprintf("set.seed(%d)", seed&0x7fffffff) },
	},
	"java": {
		specs: []string{"java"},
		set: func(name, value string) string {
			return fmt.Sprintf("System.setProperty(%s, %s);", jsonQuote(name), jsonQuote(value))
		},
		unset: func(name string) string { return "System.clearProperty(" + jsonQuote(name) + ");" },
	},
}

// deno serves JavaScript and TypeScript alike. It says that it is idle before the
// last output is on its way, hence the fence. V8 offers no way to seed Math.random,
// so that is replaced by a generator of the same kind (xorshift) with a new state;
// crypto stays as it is.
var deno = language{
	specs: []string{"deno"},
	env:   map[string]string{"NO_COLOR": "1"},
	set: func(name, value string) string {
		return fmt.Sprintf("Deno.env.set(%s, %s);", jsonQuote(name), jsonQuote(value))
	},
	unset: func(name string) string { return "Deno.env.delete(" + jsonQuote(name) + ");" },
	seed: func(seed uint64) string {
		return fmt.Sprintf("{ let s = %dn | 1n; Math.random = () => { s ^= s >> 12n; "+
			"s = BigInt.asUintN(64, s ^ (s << 25n)); s ^= s >> 27n; "+
			"return Number(BigInt.asUintN(64, s * 0x2545F4914F6CDD1Dn) >> 11n) / 2 ** 53; }; }", seed)
	},
	fence: func(id string) string {
		return fmt.Sprintf("await Deno.jupyter.broadcast(%q, {id: %s});", fenceType, jsonQuote(id))
	},
	message: true,
}

// normalize returns the name that a language is known by here.
func normalize(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if known, ok := aliases[name]; ok {
		return known
	}
	return name
}

// jsonQuote returns a string literal of JavaScript, R and Java.
func jsonQuote(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // strings always encode
		return `""`
	}
	return string(b)
}

// shellQuote returns a word of the shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

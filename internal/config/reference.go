package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Reference is docs/configuration.md, made from the tags of [Config].
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration of the server

Generated from the source; ` + "`bulkhead serve --help`" + ` says the same.

An option is set by its flag, else by its environment variable, else by the YAML
file named with ` + "`--config`" + ` or ` + "`BULKHEAD_CONFIG`" + `, whose keys are the flags' names without
the dashes, else it has its default. An option that does not exist is an error.

` + "```yaml" + `
# /etc/bulkhead.yaml
max-sandboxes: 200
nameserver: [10.0.0.2]
warm:
  code-interpreter-v1: 4/2
` + "```" + `

| option | environment | default | |
|---|---|---|---|
`)
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if field.Anonymous {
			continue
		}
		tag := field.Tag
		def := tag.Get("default")
		if def == "" && field.Type.Kind() == reflect.Bool {
			def = "false"
		}
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", tag.Get("name"), tag.Get("env"), def, tag.Get("help"))
	}
	return b.String()
}

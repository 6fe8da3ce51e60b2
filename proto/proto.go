// Package proto holds the descriptions of the services in a box and generates
// the packages below internal/boxrpc from them. Generating needs protoc 3.21 or
// later; the plugins are those that tools/go.mod names.
package proto

//go:generate sh -c "protoc -I . --plugin=protoc-gen-go=$(go tool -modfile=../tools/go.mod -n protoc-gen-go) --plugin=protoc-gen-connect-go=$(go tool -modfile=../tools/go.mod -n protoc-gen-connect-go) --go_out=.. --go_opt=module=github.com/bulkheadhq/bulkhead --connect-go_out=.. --connect-go_opt=module=github.com/bulkheadhq/bulkhead process/process.proto filesystem/filesystem.proto"

// The tools that make this module's generated code, apart from its own
// dependencies. Run one with: go tool -modfile=tools/go.mod NAME.
module github.com/bulkheadhq/bulkhead/tools

go 1.26.8

tool (
	connectrpc.com/connect/cmd/protoc-gen-connect-go
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	connectrpc.com/connect v1.21.1 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

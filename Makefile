# Everything a user or a developer does, as targets. `make help` lists them.

SHELL := /bin/bash
GO      ?= go
BIN     := bin
BUNDLED := internal/bundled/bin
DATA    ?= /var/lib/bulkhead
export CGO_ENABLED ?= 0
# One set of flags for builds and tests: gVisor is compiled once.
export GOFLAGS += -trimpath

# envd and bulkhead are rebuilt when any Go file changes; the compiler's cache
# makes that cheap. Both envd and runsc are carried in bulkhead.
SOURCES := $(shell find . -name '*.go' -not -path './test/*' -o -name '*.py' -path './internal/*' -o -name '*.sql' -path './internal/*') go.mod

.DEFAULT_GOAL := help
.PHONY: help build demo test unit race soak cgroups residue bench check lint fmt vuln generate compat clean deps

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what a bare Debian or Ubuntu machine lacks (apt)
	@scripts/deps

build: $(BIN)/bulkhead ## build bin/bulkhead, with envd and gVisor inside

$(BUNDLED)/envd: $(SOURCES)
	@echo "== build envd"
	@$(GO) build -ldflags '-s -w' -o $@ ./cmd/envd

$(BUNDLED)/runsc: $(SOURCES)
	@echo "== build runsc (the first build compiles gVisor: 3 minutes on 2 cores)"
	@scripts/progress $(GO) build -ldflags '-s -w' -o $@ ./cmd/runsc

$(BIN)/bulkhead: $(BUNDLED)/envd $(BUNDLED)/runsc $(SOURCES)
	@echo "== build bulkhead"
	@scripts/progress $(GO) build -ldflags '-s -w' -o $@ ./cmd/bulkhead

demo: ## install, build, make the templates, serve, and run code in a sandbox
	@scripts/demo

test: ## pass every test: unit, race, contract, end to end through the SDKs
	@scripts/test

unit: ## quick tests of the packages, without race detector
	@$(GO) test ./...

soak: ## the scripts' bombs at length, the small host among them
	@internal/script/testdata/fetch.sh
	@$(GO) test -count=1 -timeout 30m ./internal/script/...

cgroups: ## the limits on a second kernel with cgroup v2, in a container of it, v1 and hybrid
	@scripts/cgroups

residue: ## 1,000 sandboxes ended at every stage, the server killed twice: nothing is left
	@scripts/residue

bench: build ## measure next to docker run, runc run and a bare process
	@scripts/bench

check: fmt lint race ## format, lint, race tests

race:
	@CGO_ENABLED=1 $(GO) test -race -gcflags=modernc.org/...=-race=false ./...

lint: ## golangci-lint, pinned in tools/go.mod (the first run compiles it)
	@$(GO) tool -modfile=tools/go.mod golangci-lint run

fmt: ## format the code
	@$(GO) tool -modfile=tools/go.mod golangci-lint fmt

vuln: ## known vulnerabilities in what the code calls (asks its public database)
	@$(GO) tool -modfile=tools/go.mod govulncheck ./...

generate: ## make generated code and documents anew
	@$(GO) generate ./...

compat: ## write docs/compatibility.md from a run of the SDK suites
	@scripts/test compat

clean: ## remove what was built; data in $(DATA) stays
	@rm -rf $(BIN) $(BUNDLED)/envd $(BUNDLED)/runsc .cache

#!/bin/sh
# Fetches the public test suites that the conformance tests of internal/script/engine
# compare goja with and without charged built-ins on. They are other people's work and
# stay out of this repository.
#
#   test262-parser-tests  tc39's programs that parsers must accept or refuse, from npm
#   quickjs               QuickJS's own tests, from the Go module modernc.org/libquickjs
#   test262               a checkout you may put there yourself; it has no package
set -eu
cd "$(dirname "$0")/../../.."
out=.cache/conformance
mkdir -p "$out"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if [ ! -d "$out/test262-parser-tests" ]; then
	(cd "$tmp" && npm pack --silent test262-parser-tests@0.0.5 >/dev/null && tar xzf test262-parser-tests-0.0.5.tgz)
	mv "$tmp/package" "$out/test262-parser-tests"
fi
if [ ! -d "$out/quickjs" ]; then
	(cd "$tmp" && printf 'module fetch\n' >go.mod && GOFLAGS=-mod=mod go mod download modernc.org/libquickjs@v0.14.0)
	cp -r "$(go env GOMODCACHE)/modernc.org/libquickjs@v0.14.0/testdata/tests" "$out/quickjs"
	chmod -R u+w "$out/quickjs"
fi

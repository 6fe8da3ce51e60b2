#!/bin/sh
# Fetches the public test suites that the conformance tests of internal/script/engine
# compare goja with and without charged built-ins on. They are other people's work and
# stay out of this repository.
#
#   test262-parser-tests  tc39's programs that parsers must accept or refuse, from npm
#   quickjs               QuickJS's own tests, from the Go module modernc.org/libquickjs
#   test262               tc39's own suite, as SpiderMonkey's sources hold it, from
#                         Debian's or Ubuntu's source package
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
if [ ! -d "$out/test262" ]; then
	# The machine's own mirrors, as sources, in lists of our own.
	mkdir -p "$tmp/apt/lists/partial"
	targets() {
		apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
			awk '($4 == "Debian" || $4 == "Ubuntu") && !seen[$0]++ { print $1, $2, $3 }'
	}
	[ -n "$(targets)" ] || apt-get -q update
	targets | sed "s|^|deb-src [signed-by=$(ls /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/ubuntu-archive-keyring.gpg 2>/dev/null | paste -sd,)] |" >"$tmp/apt/sources.list"
	own_apt() {
		apt-get -q -o Dir::Etc::SourceList="$tmp/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
			-o Dir::State::Lists="$tmp/apt/lists" "$@"
	}
	own_apt update
	# The newest that can be had: older suites know fewer built-ins.
	for package in mozjs140 mozjs128 mozjs115 mozjs102 mozjs91 mozjs78; do
		(cd "$tmp" && own_apt source --download-only "$package" >/dev/null 2>&1) || continue
		tar -xf "$(ls "$tmp/$package"_*.orig.tar.*z | head -n 1)" -C "$tmp" --wildcards '*/js/src/tests/test262/*'
		mv "$tmp"/*/js/src/tests/test262 "$out/test262"
		break
	done
	[ -d "$out/test262" ] || { echo "no source package of SpiderMonkey could be had" >&2; exit 1; }
fi

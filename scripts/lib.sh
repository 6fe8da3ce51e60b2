# Sourced by the other scripts: the repository's root and a few words.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
# As in the Makefile: gVisor is compiled once for builds and tests.
export CGO_ENABLED=${CGO_ENABLED:-0}
[[ " ${GOFLAGS:-} " == *" -trimpath "* ]] || export GOFLAGS="${GOFLAGS:-} -trimpath"
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# progress TEXT COMMAND… runs the command quietly, says every five seconds that
# it still runs, and shows all it printed when it fails.
progress() {
  local text=$1 log began=$SECONDS pid
  shift
  log=$(mktemp)
  printf '   %s\n' "$text"
  "$@" >"$log" 2>&1 &
  pid=$!
  (
    while sleep 5 && kill -0 "$pid" 2>/dev/null; do
      printf '   … %d s  %s\n' $((SECONDS - began)) "$(tail -n 1 "$log" | tr -cd '[:print:]' | cut -c1-90)"
    done
  ) &
  local teller=$! rc=0
  wait "$pid" || rc=$?
  kill "$teller" 2>/dev/null || true
  wait "$teller" 2>/dev/null || true
  if [ "$rc" -ne 0 ]; then
    cat "$log" >&2
    rm -f "$log"
    die "$text: exit code $rc"
  fi
  rm -f "$log"
}

need_root() { [ "$(id -u)" = 0 ] || die "this must run as root: sandboxes need network namespaces and cgroups"; }

#!/usr/bin/env bash
# Measures module, issuer and tunnels side by side with their peers, in one run on this machine. `make bench` calls it.
#
#   scripts/bench.sh
#
# Settings, from the environment:
#   ONLY=WORD,…     only these rows: an id, or a part of ids between hyphens (issuer, rs256); ONLY=help lists them
#   LONG=1          also the rows that take minutes, which else need their whole id
#   QUICK=1         three pairs, for trying it out; no result
#   STRICT=1        exit with 1 when a budget is missed, or undecided because the machine was busy
#   PAIRS=9 LEG=1   interleaved pairs for each ratio, seconds of each leg
#   CONGESTION=NAME all of it in a network namespace whose TCP has this congestion control; needs root's rights
# What the rows need is installed and built first, in PROFILE=release; of the peers, rathole into target/rathole,
# the Python originals into target/python-peers.
# The table goes to standard output, the same as JSON to build/bench.json, the profiles of the instruction counts
# to build/bench-profiles/. Exit: 0, 1 as above, 2 when something could not be measured.
# Nothing else should run meanwhile: the server has core 0, the load generator core 1.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
build=${JWTUNNEL_BUILD_DIR:-$root/build}
bench=${JWTUNNEL_BENCH:-$root/target/release/bench}

[ $# -eq 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
say() { printf 'bench: %s\n' "$*" >&2; }
[ -x "$bench" ] || { say "there is no $bench: make bench"; exit 2; }
if [ "${ONLY:-}" = help ]; then exec "$bench" rows; fi

on() { [ -n "${1:-}" ] && [ "$1" != 0 ]; }
selection=()
if [ -n "${ONLY:-}" ]; then selection+=(--only "$ONLY"); fi
if on "${LONG:-}"; then selection+=(--long); fi
arguments=(--build "$build" --json "$build/bench.json" --profiles "$build/bench-profiles")
if on "${QUICK:-}"; then arguments+=(--quick); fi
if on "${STRICT:-}"; then arguments+=(--strict); fi
if [ -n "${PAIRS:-}" ]; then arguments+=(--pairs "$PAIRS"); fi
if [ -n "${LEG:-}" ]; then arguments+=(--leg "$LEG"); fi

# The newest release, with nothing but both ends over TCP. Without --locked: the versions that it was released with
# no longer compile.
rathole() {
    local root=$root/target/rathole version=0.5.0
    if ! "$root/bin/rathole" --version 2>/dev/null | grep -q -w "$version"; then
        say "building rathole $version into target/rathole (once; takes some minutes)"
        cargo install --quiet --version "$version" --no-default-features --features server,client \
            --root "$root" --target-dir "$root/target" rathole >&2
        rm -rf "$root/target"
    fi
    printf '%s\n' "$root/bin/rathole"
}

needs=$("$bench" needs "${selection[@]}")
# shellcheck disable=SC2086 # words
scripts/packages.sh bench $needs
profile=${PROFILE:-release}
for need in $needs; do
    case $need in
        module | daemon) make --no-print-directory "$need" PROFILE="$profile" BUILD="$build" >&2 ;;
        python) arguments+=(--python "$(scripts/python-peers.sh)") ;;
        rathole) arguments+=(--rathole "$(rathole)") ;;
    esac
done

# Each tunnelled connection is two of a daemon's.
ulimit -S -n "$(ulimit -H -n)"

# Not under a home directory: nginx's worker is another user, and must be able to enter it.
folder=$(mktemp -d /tmp/jwtunnel-bench.XXXXXX)
chmod 755 "$folder"
pid=
finish() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$pid" ]; then
        # What it has started ends with it.
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Before whatever else runs on the machine, where that is allowed; not for a trial, which need not disturb others.
# In a session of its own, because Linux weighs sessions first (sched(7), autogroup), then processes.
# shellcheck disable=SC2016 # that shell expands it
before_others='{ echo -20 >/proc/self/autogroup; } 2>/dev/null; exec nice -n -20 "$@"'
first=()
if ! on "${QUICK:-}" && [ "$(nice -n -20 nice 2>/dev/null)" = -20 ]; then
    first=(setsid bash -c "$before_others" bash)
fi

# shellcheck disable=SC2016 # that shell expands it
alone='ip link set lo up && printf %s "$1" >/proc/sys/net/ipv4/tcp_congestion_control && shift && exec "$@"'
network=()
if [ -n "${CONGESTION:-}" ]; then
    # Only root may change it, and then only to one that is there.
    known=$(cat /proc/sys/net/ipv4/tcp_available_congestion_control)
    [[ " $known " = *" $CONGESTION "* ]] || { say "CONGESTION=$CONGESTION: this kernel has $known"; exit 2; }
    [ "$(id -u)" = 0 ] || { say "CONGESTION needs a network namespace: run it as root"; exit 2; }
    command -v ip >/dev/null || { say "CONGESTION needs the program ip: apt-get install iproute2"; exit 2; }
    network=(unshare --net bash -euc "$alone" bash "$CONGESTION")
fi

"${network[@]}" "${first[@]}" "$bench" run --folder "$folder" "${selection[@]}" "${arguments[@]}" &
pid=$!
status=0
wait "$pid" || status=$?
pid=
(exit "$status")

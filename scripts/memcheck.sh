#!/usr/bin/env bash
# Runs the tests that need nginx alone with nginx under valgrind, and fails on any finding. `make memcheck` calls it.
#
#   scripts/memcheck.sh [TEST...]      default: all tests of the module
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tests=("$@")
[ ${#tests[@]} -gt 0 ] || mapfile -t tests < <(sed -n 's/^nginx_only=(\(.*\))$/\1/p' scripts/test.sh | tr ' ' '\n' | grep -v -x -e --test)
logs=$(mktemp -d /tmp/jwtunnel-memcheck.XXXXXX)
# The workers, another user, write there too.
chmod 1777 "$logs"
export JWTUNNEL_MEMCHECK=$logs NGINX=host NGINX_BINARY=$root/scripts/nginx-valgrind.sh
export JWTUNNEL_BUILD_DIR=${JWTUNNEL_BUILD_DIR:-$root/build}
arguments=()
for test in "${tests[@]}"; do arguments+=(--test "$test"); done

status=0
# Left out is what needs nginx's own speed: tokens expire before they fill a zone.
cargo test --locked --profile quick --no-fail-fast -p system-tests "${arguments[@]}" -- --test-threads 2 \
    --skip a_full_replay_zone_forgets_nothing || status=1
processes=$(find "$logs" -name '*.log' | wc -l)
# A worker that the test killed wrote no summary; one that ended did.
summaries=$(cat "$logs"/*.log | grep -c 'ERROR SUMMARY:' || true)
findings=$(grep -l 'ERROR SUMMARY: [1-9]' "$logs"/*.log || true)
printf '==> valgrind: %s processes of nginx, %s of them with a summary\n' "$processes" "$summaries"
if [ "$summaries" -eq 0 ]; then
    printf '==> no process has written a summary: nothing was checked\n' >&2
    exit 1
fi
if [ -n "$findings" ]; then
    for log in $findings; do
        printf -- '---- %s\n' "$log" >&2
        head -n 80 "$log" >&2
    done
    exit 1
fi
[ "$status" -eq 0 ] && rm -rf "$logs"
printf '==> no findings\n'
exit "$status"

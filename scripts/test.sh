#!/usr/bin/env bash
# Runs all tests against what `make build PROFILE=quick` has left in build/. `make test` calls it.
#
#   scripts/test.sh [FILTER...]        FILTER: only tests whose name holds one of these words
#
# NGINX=host uses the installed nginx instead of the one in Docker. JWTUNNEL_VECTORS names the folder of
# tokens.jsonl, kept beside the repository; without it the tests that read it are not run, and shown as ignored.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
say() { printf '==> %s (%s s)\n' "$*" "$SECONDS"; }

export JWTUNNEL_BUILD_DIR=${JWTUNNEL_BUILD_DIR:-$root/build}
ignored=() run_ignored=()
if [ -n "${JWTUNNEL_VECTORS:-}" ]; then
    ignored=(--include-ignored) run_ignored=(--run-ignored all)
elif [ -n "${CI:-}" ]; then
    printf 'test: CI must set JWTUNNEL_VECTORS\n' >&2
    exit 2
else
    say "JWTUNNEL_VECTORS is not set: the shared token vectors are not run"
fi

if [ "${NGINX:-docker}" != host ]; then
    say "preparing the image with nginx and the module"
    JWTUNNEL_TEST_IMAGE=$(scripts/test-image.sh "$JWTUNNEL_BUILD_DIR")
    export JWTUNNEL_TEST_IMAGE
fi
say "preparing the Python programs: the originals, schemathesis"
JWTUNNEL_PYTHON=$(scripts/python-peers.sh)
JWTUNNEL_SCHEMATHESIS=$(scripts/python-peers.sh schemathesis)
export JWTUNNEL_PYTHON JWTUNNEL_SCHEMATHESIS

say "building the module for nginx 1.28, from the sources in the nginx-src crate"
make --no-print-directory module NGINX_FLAVOUR=vendored PROFILE=quick BUILD=build/nginx-1.28 >/dev/null

status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# run WHAT COMMAND...: goes on after a failure, so that one run shows all of them.
run() {
    say "$1"
    shift
    "$@" 2>&1 | tee -a "$log" || status=1
}
# Always the same packages: with others cargo would choose other features for what they share, and build it once more.
packages=(-p jwt-core -p jwtunnel -p system-tests)

# tests WHAT THREADS FILTERSET [NAME=VALUE...] [OPTION...] -- FILTER...: the tests that nextest's FILTERSET means, side by
# side; those of one program after the other would leave a core idle for minutes. Without cargo-nextest OPTIONs choose.
tests() {
    local what=$1 threads=$2 filterset=$3 environment=()
    shift 3
    while [[ $1 == *=* ]]; do
        environment+=("$1")
        shift
    done
    local options=()
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    if cargo nextest --version >/dev/null 2>&1; then
        run "$what" env "${environment[@]}" cargo nextest run --locked --cargo-profile quick --no-fail-fast \
            --no-tests pass --test-threads "$threads" "${run_ignored[@]}" "${packages[@]}" -E "$filterset" -- "$@"
    else
        run "$what" env "${environment[@]}" cargo test --locked --profile quick --no-fail-fast \
            "${options[@]}" -- "${ignored[@]}" --test-threads "$threads" "$@"
    fi
}
# Those that need nginx alone, for both versions of it.
nginx_only=(
    access variables directives jwks_refresh reload rules sources outcomes dialect peer_defects redirects issuers
    revocation upgrade lookups claim_headers corners algorithms phases requirements state key_sources key_requests
    key_waits docs
)

tests "unit tests, and the daemon by itself" 3 'not package(system-tests)' -p jwt-core -p jwtunnel -- "$@"
run "examples of the documentation" \
    cargo test --locked --profile quick --no-fail-fast --doc "${packages[@]}" -- "$@"
where=$(if [ "${NGINX:-docker}" = host ]; then echo 'of this machine'; else echo 'in Docker'; fi)
tests "nginx $where, the daemon, the original programs" 6 'package(system-tests)' -p system-tests -- "$@"
nginx_128=$(scripts/nginx-source.sh vendored | sed -n 's/^NGINX_BUILD_DIR=//p')/nginx
only=$(printf ' + binary_id(=system-tests::%s)' "${nginx_only[@]}")
# shellcheck disable=SC2046  # Names of programs, each a word.
tests "the same module in nginx 1.28" 6 "${only# + }" \
    NGINX=host NGINX_BINARY="$nginx_128" JWTUNNEL_BUILD_DIR="$root/build/nginx-1.28" \
    -p system-tests $(printf -- '--test %s ' "${nginx_only[@]}") -- "$@"

# A word that is in no test's name would make every run a green one.
for word in "$@"; do
    if [[ $word != -* ]] && ! grep -q -E "^test .*$word.* \.\.\. |^ +[A-Z]+ \[.*$word" "$log"; then
        printf 'test: no test has "%s" in its name\n' "$word" >&2
        status=1
    fi
done
if [ "$status" -eq 0 ]; then say "all tests have passed"; else say "tests have FAILED" >&2; fi
exit "$status"

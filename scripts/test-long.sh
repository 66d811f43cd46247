#!/usr/bin/env bash
# The tests of faults, as they are but with the numbers of their requirements: an hour of silence on ten thousand
# connections, 720,000 short ones, 1 GiB under loss, half an hour of rotations, 500 kills. `make test-long` calls it.
#
#   ONLY=f24,f28 scripts/test-long.sh      only tests whose name holds one of these words
#
# One test after another: each has the machine for itself. Needs root, for networks of their own, and about 2 GiB.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export JWTUNNEL_BUILD_DIR=${JWTUNNEL_BUILD_DIR:-$root/build}
export JWTUNNEL_LONG=1 NGINX=host
JWTUNNEL_PYTHON=$(scripts/python-peers.sh)
export JWTUNNEL_PYTHON
# Ten thousand connections are four descriptors each, in three processes.
ulimit -n 65536
IFS=, read -ra words <<<"${ONLY:-}"
status=0
# Without a word: those whose size depends on JWTUNNEL_LONG.
close=("${words[@]:-tunnel_close::}")
cargo test --locked --profile quick --no-fail-fast -p jwtunnel --test tunnels \
    -- --test-threads 1 "${close[@]}" || status=1
cargo test --locked --profile quick --no-fail-fast -p system-tests --test tunnel_faults --test issuer_faults \
    -- --test-threads 1 "${words[@]}" || status=1
exit "$status"

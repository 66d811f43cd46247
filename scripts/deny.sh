#!/usr/bin/env bash
# Checks licences, bans and sources of the dependencies with cargo-deny (deny.toml).
# usage: scripts/deny.sh
# Without an installed cargo-deny it is built once into a cache, which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/jwtunnel/tools
PATH=$tools/bin:$PATH

if ! cargo deny --version >/dev/null 2>&1; then
    echo "==> building cargo-deny $version into $tools (once; takes some minutes)"
    # Not this project's target folder or profile: the tool is the same for every checkout.
    # Unoptimised: it is compiled in half the time, and runs for seconds.
    CARGO_TARGET_DIR=$tools/target CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --version "$version" --root "$tools" cargo-deny
    rm -rf "$tools/target"
fi
# Advisories are left out: their database would have to be fetched from a git host. The feature `vendored` is left out:
# it brings build tools for nginx, nothing that we ship.
cargo deny --locked check licenses bans sources

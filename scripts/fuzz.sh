#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/ one after another, each for FUZZ_TIME seconds (default 60).
#
#   scripts/fuzz.sh [TARGET...]        all, if none is named
#
# It begins with the inputs of fuzz/corpus and keeps what it finds in fuzz/target/corpus for the next run. An input
# that a target does not take is left in fuzz/target/findings, and ends the script with 1; once it is mended, its place
# is fuzz/corpus/TARGET, where `make test` tries it for ever. Needs no nightly compiler: the code is safe Rust, so
# counters for libFuzzer suffice, without a sanitizer.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/fuzz"
export CARGO_TARGET_DIR=$root/fuzz/target
host=$(rustc -vV | sed -n 's/^host: //p')
seconds=${FUZZ_TIME:-60}
targets=("$@")
if [ $# -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# The dependencies in the versions of the workspace; what libFuzzer needs comes on top.
cp ../Cargo.lock Cargo.lock
# What cargo-fuzz asks the compiler for. With --target neither build scripts nor macros get it.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
binaries=()
for target in "${targets[@]}"; do binaries+=(--bin "$target"); done
cargo build --release --target "$host" "${binaries[@]}"

status=0
for target in "${targets[@]}"; do
    printf '==> %s, %s s\n' "$target" "$seconds"
    found=$CARGO_TARGET_DIR/corpus/$target
    findings=$CARGO_TARGET_DIR/findings/$target
    mkdir -p "$found" "$findings"
    if ! "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="$findings/" "$found" "corpus/$target"; then
        printf 'fuzz: %s: see %s\n' "$target" "$findings" >&2
        status=1
    fi
done
exit "$status"

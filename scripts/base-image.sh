#!/usr/bin/env bash
# Makes sure that Docker has the image that tests/Dockerfile starts from: pulled if that works, else made with
# mmdebstrap from Debian's packages.
#
#   scripts/base-image.sh
set -euo pipefail

image=debian:bookworm-slim
say() { printf 'base-image: %s\n' "$*" >&2; }
case ${1:-} in
    '') ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

if docker image inspect "$image" >/dev/null 2>&1; then
    exit 0
fi
if timeout 120 docker pull -q "$image" >/dev/null 2>&1; then
    say "pulled $image"
    exit 0
fi
if ! command -v mmdebstrap >/dev/null; then
    say "$image can't be pulled, and there is no mmdebstrap to make it: scripts/packages.sh test"
    exit 2
fi

say "$image can't be pulled; making it with mmdebstrap"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The sources of this machine if it is a bookworm, because they are known to be reachable; else Debian's own.
sources=()
if grep -q bookworm /etc/os-release 2>/dev/null; then
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
        if [ -s "$file" ]; then sources+=("$file"); fi
    done
fi
if ! mmdebstrap --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    bookworm "$work/root.tar" "${sources[@]}" >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    say "mmdebstrap failed"
    exit 1
fi
docker import --change 'CMD ["bash"]' "$work/root.tar" "$image" >/dev/null
say "made $image"

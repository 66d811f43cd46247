#!/usr/bin/env bash
# Builds the image of tests/Dockerfile, Debian's nginx with our module, and prints its name.
#
#   scripts/test-image.sh [BUILD_DIR]        BUILD_DIR: where ngx_http_jwt_module.so is (default build/)
#
# The name holds a hash of what goes in, so an image that is already there is used again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build}
say() { printf 'test-image: %s\n' "$*" >&2; }
[ $# -le 1 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
if [ ! -f "$build/ngx_http_jwt_module.so" ]; then
    say "no ngx_http_jwt_module.so in $build: make build"
    exit 2
fi

if ! docker info >/dev/null 2>&1; then
    # Packages are installed without starting their services, so on a new machine nobody has started this one.
    if [ "$(id -u)" -eq 0 ]; then
        say "starting Docker"
        service docker start >/dev/null 2>&1 || true
        for _ in $(seq 100); do
            docker info >/dev/null 2>&1 && break
            sleep 0.2
        done
    fi
    if ! docker info >/dev/null 2>&1; then
        say "Docker can't be reached: start it, or let this user use it; NGINX=host does without"
        docker info 2>&1 | tail -n 3 >&2
        exit 2
    fi
fi

hash=$(cat "$root/tests/Dockerfile" "$build/ngx_http_jwt_module.so" | sha256sum | cut -c 1-16)
image=jwtunnel-test:$hash
# Tests of one run ask at the same time.
mkdir -p "$root/target"
exec 9>"$root/target/test-image.lock"
flock 9
if ! docker image inspect "$image" >/dev/null 2>&1; then
    "$root/scripts/base-image.sh"
    say "building $image"
    context=$(mktemp -d)
    trap 'rm -rf "$context"' EXIT
    cp "$root/tests/Dockerfile" "$build/ngx_http_jwt_module.so" "$context/"
    if ! DOCKER_BUILDKIT=0 docker build --network host -t "$image" "$context" >"$context/log" 2>&1; then
        tail -n 30 "$context/log" >&2
        say "docker build failed"
        exit 1
    fi
    # Images of earlier builds are of no use any more; their layers below the module are kept by this one.
    docker image ls --format '{{.Repository}}:{{.Tag}}' jwtunnel-test |
        while read -r old; do [ "$old" = "$image" ] || docker image rm "$old" >/dev/null 2>&1 || true; done
fi
printf '%s\n' "$image"

#!/usr/bin/env bash
# Installs the Debian packages that are missing for a purpose. Services that they bring are not started.
#
#   scripts/packages.sh build|run|test|memcheck|check
#   scripts/packages.sh bench [haproxy|valgrind|python|postgres]…
#
# Without root it prints the line to run and exits 2. With everything there it does nothing.
# NGINX=host leaves out what only tests in Docker need.
set -euo pipefail

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
say() { printf 'packages: %s\n' "$*" >&2; }

# Debian's nginx lies where the PATH of an ordinary user does not look.
PATH=$PATH:/usr/sbin:/sbin

# package, or package=command where any origin of the command will do.
build=(build-essential=c++ make=make ca-certificates libclang-dev nginx nginx-dev)
case ${1:-} in
    build) wanted=("${build[@]}") ;;
    run) wanted=("${build[@]}" curl=curl) ;;
    check) wanted=("${build[@]}" shellcheck=shellcheck) ;;
    bench)
        wanted=("${build[@]}")
        # As `bench needs` names them; what is not here is built.
        for need in "${@:2}"; do
            case $need in
                haproxy | valgrind) wanted+=("$need=$need") ;;
                python) wanted+=(python3=python3 python3-venv) ;;
                postgres) wanted+=(postgresql) ;;
            esac
        done
        ;;
    test | memcheck)
        wanted=("${build[@]}" curl=curl openssl=openssl python3=python3 python3-venv)
        # iproute2 and iptables: tests in networks of their own drop packets there.
        [ "$1" = memcheck ] || wanted+=(postgresql tinyproxy-bin=tinyproxy iproute2=ip iptables=iptables)
        [ "${NGINX:-docker}" = host ] || wanted+=(docker.io=docker mmdebstrap=mmdebstrap)
        [ "$1" = test ] || wanted+=(valgrind=valgrind)
        ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

if ! command -v cargo >/dev/null; then
    say "there is no cargo: install Rust first, as https://rustup.rs says"
    exit 2
fi

missing=()
packages=()
for entry in "${wanted[@]}"; do
    if [[ $entry == *=* ]]; then
        command -v "${entry#*=}" >/dev/null || missing+=("${entry%%=*}")
    else
        packages+=("$entry")
    fi
done
# One call for all: this runs before every build.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
    grep -q -x "$package installed" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    say "missing: ${missing[*]}. Install them, then try again:"
    printf '  sudo apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
    exit 2
fi

say "installing ${missing[*]}"
# Debian asks this program before a package starts its service; 101 means "not allowed".
policy=/usr/sbin/policy-rc.d
saved=
restore() {
    if [ -n "$saved" ]; then mv "$saved" "$policy"; else rm -f "$policy"; fi
}
if [ -e "$policy" ]; then
    saved=$(mktemp "$policy.XXXXXX")
    cp -p "$policy" "$saved"
fi
trap restore EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# One unreachable source of many is no reason to stop: the installation tells whether it mattered.
apt-get update >"$log" 2>&1 || say "apt-get update had a problem: $(grep -m 1 -E '^[EW]:' "$log" || echo "see $log")"
if ! apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "the installation failed; the whole log is $log"
    exit 1
fi
rm -f "$log"

#!/usr/bin/env bash
# Installs Python programs into a virtual environment of the tests, and prints its python.
#
#   scripts/python-peers.sh [peers|schemathesis]
#
# peers are the original programs, in the versions of tests/python/requirements.txt; schemathesis, which tries the
# API's document out, is in those of tests/python/schemathesis.txt. Each environment is kept under target/.
# PYTHON names the interpreter, 3.11 or newer (default: Debian's, else the first python3).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'python-peers: %s\n' "$*" >&2; }
case $#${1:-peers} in
    0peers | 1peers)
        what='netunnel and its plugin'
        requirements=$root/tests/python/requirements.txt
        venv=$root/target/python-peers
        ;;
    1schemathesis)
        what=schemathesis
        requirements=$root/tests/python/schemathesis.txt
        venv=$root/target/python-schemathesis
        ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-/usr/bin/python3 python3}; do
    if usable "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    say "no Python 3.11 or newer with venv: scripts/packages.sh test, or PYTHON=…"
    exit 2
fi

wanted=$("$python" -V; cat "$requirements")
mkdir -p "$root/target"
# Tests of one run ask at the same time.
exec 9>"$venv.lock"
flock 9
if [ ! -f "$venv/stamp" ] || [ "$(cat "$venv/stamp")" != "$wanted" ]; then
    say "installing $what from PyPI"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >"$venv/log" 2>&1; then
        tail -n 20 "$venv/log" >&2
        say "pip failed; the whole log is $venv/log"
        exit 1
    fi
    printf '%s\n' "$wanted" >"$venv/stamp"
fi
printf '%s\n' "$venv/bin/python"

#!/usr/bin/env bash
# nginx under valgrind's memcheck, for `make memcheck`: the tests start it instead of nginx (NGINX_BINARY).
#
#   JWTUNNEL_MEMCHECK=DIR scripts/nginx-valgrind.sh NGINX-ARGUMENTS...      one log for each process, DIR/PID.log
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${JWTUNNEL_MEMCHECK:?is the folder for the logs}"
PATH=$PATH:/usr/sbin:/sbin
# definite: what is still reachable at the end of a process is nginx's own static state. `nginx -t` ends without
# freeing its configuration, which only costs where it is done again and again.
leaks=(--leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)
for argument; do
    if [ "$argument" = -t ]; then leaks=(--leak-check=no); fi
done
exec valgrind --tool=memcheck "${leaks[@]}" --num-callers=30 --log-file="$JWTUNNEL_MEMCHECK/%p.log" \
    --suppressions="$root/tests/nginx.supp" nginx "$@"

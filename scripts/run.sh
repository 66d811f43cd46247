#!/usr/bin/env bash
# Starts the whole gateway in a folder and on ports of its own, and shows what to try. `make run` calls it.
#
#   scripts/run.sh             until Ctrl-C
#   ONCE=1 scripts/run.sh      checks the three answers itself, stops, and exits 0 or 1
#
# It runs what `make build` has left in build/ (or $JWTUNNEL_BUILD_DIR), under the configuration that ships.
# Whatever it starts ends with it, and its folder is removed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "${JWTUNNEL_BUILD_DIR:-$root/build}" && pwd)
# Debian's nginx lies where the PATH of an ordinary user does not look.
PATH=$PATH:/usr/sbin:/sbin

[ $# -eq 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
say() { printf '==> %s\n' "$*"; }
for file in ngx_http_jwt_module.so jwtunneld jwtunnel; do
    [ -f "$build/$file" ] || { say "there is no $build/$file: make build" >&2; exit 2; }
done

# Not under a home directory: nginx's workers are another user, and must be able to enter it.
dir=$(mktemp -d /tmp/jwtunnel-run.XXXXXX)
chmod 755 "$dir"
pids=()

finish() {
    local status=$?
    trap - EXIT INT TERM
    # The clients first, so that nothing reconnects.
    local i
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$dir"
    exit "$status"
}
trap finish EXIT
trap 'exit 0' INT TERM

# fail WHAT [LOG]: why it does not work, with the end of the log that knows more.
fail() {
    say "$1" >&2
    if [ -n "${2:-}" ] && [ -s "$2" ]; then
        tail -n 20 "$2" | sed 's/^/    /' >&2
    fi
    exit 1
}

# until_true WHAT LOG COMMAND...: for at most 20 s.
until_true() {
    local what=$1 log=$2
    shift 2
    for _ in $(seq 200); do
        if "$@"; then return 0; fi
        kill -0 "${pids[-1]}" 2>/dev/null || fail "$what: the program has ended" "$log"
        sleep 0.1
    done
    fail "$what: not within 20 s" "$log"
}

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            printf '%s\n' "$port"
            return
        fi
    done
    fail "no free port was found"
}

# listener NAME: its address, from the daemon's log.
listener() {
    sed -n "s/.*\"listener\":\"$1\".*\"address\":\"\([^\"]*\)\".*/\1/p; s/.*\"address\":\"\([^\"]*\)\".*\"listener\":\"$1\".*/\1/p" \
        "$dir/daemon.log" | head -n 1
}
ready() { grep -q '"event":"ready"' "$dir/daemon.log" 2>/dev/null; }
# status URL [CURL ARGUMENTS...]: the status of the answer, whose body goes to $dir/body.
status() {
    local url=$1
    shift
    curl --silent --max-time 10 --output "$dir/body" --write-out '%{http_code}' "$@" "$url" || true
}

say "starting jwtunneld, with its data in $dir/data"
mkdir -m 755 "$dir/data"
cat >"$dir/jwtunneld.toml" <<TOML
[jwthenticator]
listen = "127.0.0.1:0"
internal_listen = "127.0.0.1:0"
database_url = "sqlite://$dir/data/jwtunnel.db"
[keys]
directory = "$dir/data/keys"
[jwks]
file = "$dir/data/public/jwks.json"
[netunnel]
listen = "127.0.0.1:0"
state_file = "$dir/data/netunnel.json"
TOML
"$build/jwtunneld" --config "$dir/jwtunneld.toml" --log-format json 2>"$dir/daemon.log" &
pids+=($!)
until_true "jwtunneld" "$dir/daemon.log" ready
internal=$(listener internal)

gateway=127.0.0.1:$(free_port)
service=127.0.0.1:$(free_port)
say "starting nginx with the module, on $gateway"
"$root/scripts/nginx-conf.sh" "$dir/nginx" "listen=$gateway" "netunnel=$(listener netunnel)" \
    "jwthenticator=$(listener public)" "service=$service" "jwks=$dir/data/public/jwks.json" \
    "module=$build/ngx_http_jwt_module.so"
cat >"$dir/nginx/conf/conf.d/demo.conf" <<NGINX
server {
    listen $service;
    default_type text/plain;
    location / { return 200 "hello from the service\n"; }
}
NGINX
nginx -e "$dir/nginx/state/error.log" -c "$dir/nginx/conf/nginx.conf" -g 'daemon off;' 2>"$dir/nginx.log" &
pids+=($!)
serves() { [ "$(status "http://$gateway/")" = 401 ]; }
until_true "nginx" "$dir/nginx.log" serves

say "registering a key, and exchanging it for a token"
identifier=$(cat /proc/sys/kernel/random/uuid)
(umask 077 && "$build/jwtunnel" keys register --server "http://$internal" --generate --identifier "$identifier" \
    --json >"$dir/registered" 2>"$dir/register.log") || fail "the key was not registered" "$dir/register.log"
(umask 077 && sed -n 's/.*"key": *"\([^"]*\)".*/\1/p' "$dir/registered" >"$dir/key")
printf '{"key":"%s","identifier":"%s"}' "$(cat "$dir/key")" "$identifier" >"$dir/request"
code=$(status "http://$gateway/jwthenticator/authenticate" --data "@$dir/request")
[ "$code" = 200 ] || fail "/jwthenticator/authenticate answered $code" "$dir/body"
token=$(sed -n 's/.*"jwt": *"\([^"]*\)".*/\1/p' "$dir/body")
[ -n "$token" ] || fail "/jwthenticator/authenticate gave no token"

say "opening a tunnel through nginx to the service on $service"
"$build/jwtunnel" connect --server "http://$gateway/netunnel" --key-file "$dir/key" \
    --remote-port "${service##*:}" >"$dir/tunnel.log" 2>&1 &
pids+=($!)
opened() { grep -q '^Tunnel entrance socket: ' "$dir/tunnel.log"; }
until_true "the tunnel" "$dir/tunnel.log" opened
entrance=$(sed -n 's/^Tunnel entrance socket: //p' "$dir/tunnel.log")

cat <<TEXT

    gateway (nginx)    http://$gateway
    daemon, internal   http://$internal
    logs and data      $dir

    a token, valid for 25 hours, of the client $identifier:

$token

    try, in another terminal:

curl -i http://$gateway/                                      # refused: no token

curl -i -H 'Authorization: Bearer $token' http://$gateway/    # allowed

curl -i http://$entrance/                                     # through the tunnel

TEXT

if [ -z "${ONCE:-}" ]; then
    say "running; Ctrl-C ends it"
    wait -n "${pids[@]}" || true
    fail "one of the programs has ended" "$dir/daemon.log"
fi

say "trying them"
check() {
    local what=$1 expected=$2 text=$3 code
    shift 3
    code=$(status "$@")
    if [ "$code" != "$expected" ] || ! grep -q "$text" "$dir/body"; then
        fail "$what: $code instead of $expected with \"$text\"" "$dir/body"
    fi
    say "$what: $code"
}
check "without a token" 401 'Authorization Required' "http://$gateway/"
check "with a changed token" 401 'Authorization Required' "http://$gateway/" --header "Authorization: Bearer ${token}A"
check "with the token" 200 'hello from the service' "http://$gateway/" --header "Authorization: Bearer $token"
check "through the tunnel" 200 'hello from the service' "http://$entrance/"
say "all as it should be"

#!/usr/bin/env bash
# Makes a copy of conf/nginx.conf and its snippets that runs out of a folder of its own: only places are changed,
# so that what is tried and tested is what ships.
#
#   scripts/nginx-conf.sh DIR listen=ADDRESS:PORT netunnel=ADDRESS:PORT jwthenticator=ADDRESS:PORT \
#       service=ADDRESS:PORT jwks=FILE [module=FILE] [workers=N] [level=info]
#
# DIR/conf gets nginx.conf, jwtunnel/ and an empty conf.d/ for more servers; DIR/state is for logs, pid file and
# temporary files. `module` stays as shipped if it is not given. Anything that is not found in the shipped files
# is an error.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
die() { printf 'nginx-conf: %s\n' "$*" >&2; exit 1; }
[ $# -gt 1 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }

dir=$1
shift
declare -A set=([workers]=auto [level]=notice [module]=modules/ngx_http_jwt_module.so)
for argument; do
    case $argument in
        listen=* | netunnel=* | jwthenticator=* | service=* | jwks=* | module=* | workers=* | level=*)
            set[${argument%%=*}]=${argument#*=} ;;
        *) die "unknown argument $argument" ;;
    esac
done
for name in listen netunnel jwthenticator service jwks; do
    [ -n "${set[$name]:-}" ] || die "$name=… is missing"
done

# swap FILE OLD NEW
swap() {
    local text
    text=$(cat "$dir/conf/$1")
    [[ $text == *"$2"* ]] || die "conf/$1 has no \"$2\""
    printf '%s\n' "${text//"$2"/"$3"}" >"$dir/conf/$1"
}

mkdir -p "$dir/conf/conf.d" "$dir/state"
cp -R "$root/conf/nginx.conf" "$root/conf/jwtunnel" "$dir/conf/"
# nginx's worker is another user than the one that makes this.
chmod -R a+rX "$dir/conf" "$dir/state"

swap nginx.conf 'load_module modules/ngx_http_jwt_module.so;' "load_module ${set[module]};"
swap nginx.conf 'pid /run/nginx.pid;' "pid $dir/state/nginx.pid;"
swap nginx.conf 'error_log /var/log/nginx/error.log notice;' "error_log $dir/state/error.log ${set[level]};"
swap nginx.conf 'access_log /var/log/nginx/access.log jwtunnel;' "access_log $dir/state/access.log jwtunnel;"
swap nginx.conf 'worker_processes auto;' "worker_processes ${set[workers]};"
swap nginx.conf '        listen 80;' "        listen ${set[listen]};"
swap nginx.conf 'http://127.0.0.1:8080;' "http://${set[service]};"
swap nginx.conf '/etc/nginx/conf.d/*.conf;' "$dir/conf/conf.d/*.conf;"
swap jwtunnel/http.conf 'server 127.0.0.1:4040;' "server ${set[netunnel]};"
swap jwtunnel/http.conf 'server 127.0.0.1:5050;' "server ${set[jwthenticator]};"
swap jwtunnel/http.conf '/var/lib/jwtunnel/public/jwks.json' "${set[jwks]}"
swap jwtunnel/http.conf '/var/lib/jwtunnel/public/revoked.json' "$(dirname "${set[jwks]}")/revoked.json"
if [ "$(id -u)" -ne 0 ]; then
    swap nginx.conf 'user www-data;' '# no user: nginx is not started by root'
fi

# What Debian's nginx keeps under /var/lib/nginx, where only root may write.
for kind in client_body proxy fastcgi uwsgi scgi; do
    printf '%s_temp_path %s/state/%s;\n' "$kind" "$dir" "$kind"
done >"$dir/conf/conf.d/places.conf"

#!/usr/bin/env bash
# Prepares nginx sources that nginx-sys can be built against, and tells where they are.
#
#   scripts/nginx-source.sh debian     the installed nginx: the sources of Debian's package nginx-dev,
#                                      configured with the arguments that `nginx -V` prints
#   scripts/nginx-source.sh vendored   the copy that the crate nginx-src carries; builds its nginx as
#                                      $NGINX_BUILD_DIR/nginx too (NGX_CONFIGURE_ARGS adds arguments)
#
# Standard output is two lines, NGINX_SOURCE_DIR=… and NGINX_BUILD_DIR=…, made for
#   env $(scripts/nginx-source.sh debian) cargo build -p ngx_http_jwt_module
# The result is kept under target/nginx/ (or $NGINX_CACHE_DIR) and made again when nginx has changed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${NGINX_CACHE_DIR:-$root/target/nginx}
# Debian's nginx lies where the PATH of an ordinary user does not look.
PATH=$PATH:/usr/sbin:/sbin

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
say() { printf 'nginx-source: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The arguments that make the module fit the installed nginx. Modules that need libraries of their own are left
# out: with --with-compat they change no structure that a module sees.
debian_arguments() {
    local argument
    local -a all
    # `nginx -V` quotes for the shell, so a shell takes it apart.
    eval "all=($(nginx -V 2>&1 | sed -n 's/^configure arguments: //p'))"
    for argument in "${all[@]}"; do
        case $argument in
            --with-http_geoip_module=dynamic | --with-http_image_filter_module=dynamic) ;;
            --with-http_perl_module=dynamic | --with-http_xslt_module=dynamic) ;;
            --with-stream_geoip_module=dynamic) ;;
            *) printf '%s\0' "$argument" ;;
        esac
    done
}

vendored_arguments() {
    local argument
    for argument in --with-compat --with-debug --with-threads --with-http_ssl_module --with-http_v2_module \
        --with-http_realip_module --with-http_auth_request_module ${NGX_CONFIGURE_ARGS:-}; do
        printf '%s\0' "$argument"
    done
}

vendored_origin() {
    local manifest
    manifest=$(cd "$root" && cargo metadata --locked --format-version 1 --features ngx_http_jwt_module/vendored |
        grep -o '"manifest_path":"[^"]*/nginx-src-[^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)
    [ -n "$manifest" ] || die 'cargo metadata names no nginx-src'
    printf '%s/nginx\n' "$(dirname "$manifest")"
}

[ $# -eq 1 ] || { usage >&2; exit 2; }
case $1 in
    debian)
        origin=/usr/share/nginx/src
        [ -f "$origin/src/core/nginx.h" ] || die "no $origin/src: install Debian's nginx-dev (scripts/packages.sh run)"
        command -v nginx >/dev/null || die "no nginx: install it (scripts/packages.sh run)"
        configure=./configure
        mapfile -d '' -t arguments < <(debian_arguments)
        [ ${#arguments[@]} -gt 0 ] || die "nginx -V prints no configure arguments"
        running=$(nginx -v 2>&1 | sed 's|.*nginx/||; s| .*||')
        ;;
    vendored)
        origin=$(vendored_origin)
        configure=./auto/configure
        mapfile -d '' -t arguments < <(vendored_arguments)
        running=
        ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

version=$(sed -n 's/^#define NGINX_VERSION *"\(.*\)"/\1/p' "$origin/src/core/nginx.h")
# A module of another version is refused by nginx at start; say it here, where the remedy is known.
if [ -n "$running" ] && [ "$running" != "$version" ]; then
    die "nginx is $running but $origin is $version: install the same version of nginx and nginx-dev"
fi
source_dir=$cache/$1-$version/source
build_dir=$cache/$1-$version/build
stamp=$cache/$1-$version/stamp
wanted=$(printf '%s\n' "$origin" "$cache" "${arguments[@]}"; stat -c '%s %Y' "$origin/src/core/nginx.h")

mkdir -p "$cache"
# Two makes at once must not prepare the same folder.
exec 9>"$cache/lock"
flock 9

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    say "configuring the sources of nginx $version ($1)"
    rm -rf "${cache:?}/$1-$version"
    mkdir -p "$source_dir"
    # configure writes into its folder, and the origin belongs to a package.
    cp -R "$origin/." "$source_dir"
    chmod -R u+w "$source_dir"
    log=$cache/$1-$version/log
    if ! (cd "$source_dir" && "$configure" "${arguments[@]}" --builddir="$build_dir") >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "configure failed; the whole log is $log"
    fi
    if [ "$1" = vendored ]; then
        say "building nginx $version"
        if ! make -C "$source_dir" -f "$build_dir/Makefile" -j "$(nproc)" binary >>"$log" 2>&1; then
            tail -n 20 "$log" >&2
            die "make failed; the whole log is $log"
        fi
    fi
    printf '%s\n' "$wanted" >"$stamp"
fi
printf 'NGINX_SOURCE_DIR=%s\nNGINX_BUILD_DIR=%s\n' "$source_dir" "$build_dir"

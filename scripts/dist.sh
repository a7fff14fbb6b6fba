#!/bin/sh
# Builds what is given to people, into dist/: a static binary per platform, its list of parts (an SBOM, CycloneDX
# 1.5) and the checksums of all. Without arguments: x86_64 and aarch64. With arguments: those platforms.
#
# The binaries are static against musl. Where that target cannot be had, the platform of this machine is built
# static against glibc, and said so; any other platform is then left out, and said so.
set -eu
cd "$(dirname "$0")/.."
. scripts/static.sh

say() { printf 'dist: %s\n' "$*" >&2; }

# Bytes of a binary at most, web client included: 1.5 MiB. More is a failure.
SIZE_MAX=${DIST_SIZE_MAX:-1572864}
# The same where the standard library is taken as it is shipped: it brings its reader of debug information, and its code
# is for speed.
SIZE_MAX_AS_SHIPPED=2097152

has_target() {
    rustup target list --installed 2>/dev/null | grep -qx "$1" || rustup target add "$1" >&2
}

# One linker for every platform: the one that comes with the compiler.
build() { # target, extra flags for the compiler
    variable=CARGO_TARGET_$(echo "$1" | tr 'a-z-' 'A-Z_')
    if [ "${1%-musl}" != "$1" ] && [ "${1%%-*}" != "$(uname -m)" ]; then
        export "${variable}_LINKER=rust-lld"
    fi
    [ -z "${2-}" ] || export "${variable}_RUSTFLAGS=$2"
    static_build "$1" target/dist
}

platforms=${*:-x86_64 aarch64}
has_source || SIZE_MAX=${DIST_SIZE_MAX:-$SIZE_MAX_AS_SHIPPED}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
rm -rf dist
mkdir -p dist
for platform in $platforms; do
    target=$platform-unknown-linux-musl
    flags=
    if ! has_target "$target"; then
        if [ "$platform" != "$(uname -m)" ]; then
            say "LEFT OUT: $platform, since rustup cannot bring $target"
            continue
        fi
        target=$platform-unknown-linux-gnu
        flags='-C target-feature=+crt-static -C relocation-model=static'
        say "STATIC GLIBC INSTEAD OF MUSL for $platform, since rustup cannot bring $platform-unknown-linux-musl"
    fi
    build "$target" "$flags"
    file=dist/sidestream-$version-$platform
    cp "target/dist/$target/release/sidestream" "$file"
    size=$(wc -c < "$file")
    say "$file: $size bytes ($target)"
    if [ "$size" -gt "$SIZE_MAX" ]; then
        say "$file is above $SIZE_MAX bytes; what grew?"
        exit 1
    fi
done
python3 scripts/sbom.py > "dist/sidestream-$version.cdx.json"
(cd dist && sha256sum -- * > SHA256SUMS)
say "dist/SHA256SUMS:"
cat dist/SHA256SUMS

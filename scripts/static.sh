# How a static binary is built, for whoever sources this file from the root of the repository: `make dist`, and
# `make bench`, which is to measure what is given to people.

# Whether the source of the standard library is here. It is compiled with us, for size and without what reads debug
# information, which a stripped binary has none of. A panic still says what and where.
has_source() {
    source=$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock
    [ -e "$source" ] || rustup component add rust-src >&2 || true
    [ -e "$source" ]
}

# Builds the program into $2/$1/release. $1: the target, $2: the directory for what is built. Where the source of the
# standard library cannot be had, that is taken as it is shipped, and said so.
static_build() {
    if has_source; then
        # Cargo calls this unstable: the compiler is pinned (rust-toolchain.toml). `core` is less small than the rest,
        # since it is what finds an agent's line to be UTF-8. Where a panic was is told without the column.
        RUSTC_BOOTSTRAP=1 cargo build --release --locked --bin sidestream --target "$1" --target-dir "$2" \
            -Z build-std=std,panic_abort -Z build-std-features=optimize_for_size \
            --config 'profile.release.package.core.opt-level="s"' \
            --config "target.'cfg(target_env = \"musl\")'.rustflags = ['-Zlocation-detail=file,line']"
    else
        echo "THE STANDARD LIBRARY IS TAKEN AS SHIPPED, since rustup cannot bring rust-src: a larger binary" >&2
        cargo build --release --locked --bin sidestream --target "$1" --target-dir "$2"
    fi
}

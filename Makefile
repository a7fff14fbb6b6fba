# make run | test | lint | sim | soak | million | bench | help. Everything needs only cargo; `make test` installs the rest.

SEEDS ?= 500
T ?= 60

FUZZERS = head body target lines event_id claude journal server durable

.PHONY: help run build test lint sim mutants soak million setup dist fuzz bench bench-quick bench-setup bench-build bench-micro screenshots

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

run: ## build and start the server: make run ARGS='--agent demo'
	cargo run --release -- serve $(ARGS)

build: ## the release binary, target/release/sidestream
	cargo build --release

dist: ## static binaries for both platforms, their parts and checksums, in dist/
	scripts/dist.sh

setup: ## what the tests need, installed where it is missing
	scripts/setup-tests.sh

lint: ## formatting and clippy
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings

test: setup lint dist ## everything: lint, unit tests, simulation, sockets, the real CLI, a real browser
	cargo test --no-fail-fast

soak: ## the release binary under churn for T seconds, figures in target/soak: make soak T=600
	cargo build --release
	SIDESTREAM_TEST_BINARY=$(CURDIR)/target/release/sidestream SOAK_SECONDS=$(T) \
		SOAK_OUT=$(CURDIR)/target/soak cargo test --test soak -- --nocapture

million: ## a million subscribers in one core: bytes and nanoseconds each
	SUBSCRIBERS=1000000 cargo test --release --test million -- --nocapture

sim: ## the simulation over many seeds: make sim SEEDS=10000
	SIM_SEEDS=$(SEEDS) cargo test --release --test simulation -- --nocapture

mutants: ## planted bugs, each of which must turn a test red: hours; some by name: make mutants ONLY='ring_ wheel_'
	tests/mutants.sh $(ONLY)

fuzz: ## every fuzzer for T seconds, on nightly; installs cargo-fuzz where it is missing: make fuzz T=60
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	FUZZ_SEEDS=$(CURDIR)/fuzz/corpus cargo test --test fuzz seeds_are_written
	set -e; for target in $(FUZZERS); do \
		cargo +nightly fuzz run --fuzz-dir fuzz $$target -- \
			-max_total_time=$(T) -timeout=10 -rss_limit_mb=1024 -print_final_stats=1; \
	done

screenshots: ## the pictures of docs/screenshots, made anew
	cargo build
	node tests/browser/screenshots.mjs --binary target/debug/sidestream --out docs/screenshots

FANOUT = benches/fanout/target/release/fanout
TRIPLE = $(shell uname -m)-unknown-linux-musl

bench-setup: ## the harness, the static binary and the peers that make bench measures
	benches/fanout/setup.sh

bench: bench-build ## every figure, beside the floor and the peers, into docs/benchmarks.md: within 40 minutes
	timeout 2400 $(FANOUT) run

bench-quick: bench-build ## what tells within 3 minutes whether something broke; writes nothing
	timeout 180 $(FANOUT) run --quick

bench-build: # What is measured is what the tree says now; the peers are as bench-setup left them.
	. scripts/static.sh && static_build $(TRIPLE) target
	cargo build --release --manifest-path benches/fanout/Cargo.toml

bench-micro: ## criterion: head, ring, wheel, claude line to frames, one turn of the loop
	cargo bench --bench head --bench ring --bench wheel --bench claude --bench turn

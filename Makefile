# Every gate covers the whole workspace.

.PHONY: run test check setup

# Everything in one process; Ctrl-C ends it with an account.
run:
	cargo run

# Installs what is missing, builds, and runs all gates and tests.
test: setup check
	cargo build --workspace --bins
	cargo test --workspace --no-fail-fast 2>&1 | .ci/summary

# Format, lints and documentation, all warnings as errors.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

setup:
	.ci/setup

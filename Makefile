# Every gate covers the whole workspace.

.PHONY: run test check setup mutants mutants-diff bench bench-full faults fuzz images push

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

# Whether tests notice when the code is changed, in one place at a time; docs/testing.md says how long
# it takes. SHARD=0/4 is the first quarter.
mutants:
	.ci/mutants $(if $(SHARD),--shard $(SHARD))

# The same, only for what has changed since BASE.
BASE ?= $(shell git rev-parse --quiet --verify origin/main || echo HEAD~1)
mutants-diff:
	BASE=$(BASE) .ci/mutants

# Each service beside a bare loop of the same clients, about ten minutes; results go to bench.json.
bench: setup
	cargo build --release --workspace --bins
	target/release/bench

# Also how cost grows; takes an hour or more.
bench-full: setup
	cargo build --release --workspace --bins
	target/release/bench --full

# Ten minutes of every fault, with an account of every message.
faults: setup
	cargo build --release --workspace --bins
	target/release/faults --minutes 10

# Ten million mutated inputs for each decoder; INPUTS and SEED are others.
INPUTS ?= 10000000
SEED ?= 1
fuzz:
	cargo build --release -p fuzz
	target/release/fuzz --inputs $(INPUTS) --seed $(SEED)

# An image of each service and one of the embedded cloud. ENGINE is docker, podman or buildah, and
# ENGINE_ARGS are for its build, such as --build-arg RUST_IMAGE=registry.example.com/rust:1.95.
#
#   make images                                                                       dataflow-enrich:latest, ...
#   make images TAG=0.1.0 REGISTRY=europe-docker.pkg.dev/my-project/dataflow          .../dataflow-enrich:0.1.0, ...
#   make images push TAG=0.1.0 REGISTRY=europe-docker.pkg.dev/my-project/dataflow     also sends them there
ENGINE ?= docker
TAG ?= latest
REGISTRY ?=
IMAGES = ingestion enrich bigqueries icestore emulator
ifneq ($(filter push,$(MAKECMDGOALS)),)
ifeq ($(REGISTRY),)
$(error push needs REGISTRY, such as REGISTRY=europe-docker.pkg.dev/my-project/dataflow)
endif
endif
image_name = $(if $(REGISTRY),$(REGISTRY:/=)/)dataflow-$$image:$(TAG)
images:
	for image in $(IMAGES); do \
		$(ENGINE) build $(ENGINE_ARGS) --target $$image --tag $(image_name) . || exit 1; \
	done

# Builds them first: what is pushed is what is here. The same tag must be in google-cloud.yaml of the overlay.
push: images
	for image in $(IMAGES); do $(ENGINE) push $(image_name) || exit 1; done

setup:
	.ci/setup

# Every gate covers the whole workspace.

.PHONY: build run test check setup mutants mutants-diff bench bench-full faults fuzz images push

# Builds all programs into target/release, optimised.
build:
	cargo build --release --workspace --bins

# Runs everything in one process. Ctrl-C ends it and prints a summary of all messages.
run:
	cargo run

# Installs missing tools, builds, and runs all checks and tests. The second run has the feature for S3, which
# is off by default.
test: setup check
	cargo build --workspace --bins
	rm -rf target/timings
	{ cargo test --workspace --no-fail-fast; \
	  cargo test --workspace --no-fail-fast --features icestore/s3 --test stores; } 2>&1 | .ci/summary

# Checks format, language, imports, lints and documentation. Warnings are errors. The lints also see the code
# for S3; without the feature, two functions are different.
check:
	cargo fmt --all --check
	.ci/language --self-test
	.ci/language
	.ci/circles --self-test
	.ci/circles
	.ci/mutants --self-test
	cargo clippy --workspace --all-targets --features icestore/s3 -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Changes the code in one place at a time, and checks that a test fails each time. See docs/testing.md
# for the duration. SHARD=0/4 runs the first quarter.
mutants:
	.ci/mutants $(if $(SHARD),--shard $(SHARD))

# Does the same, but only for code that changed since BASE.
BASE ?= $(shell git rev-parse --quiet --verify origin/main || echo HEAD~1)
mutants-diff:
	BASE=$(BASE) .ci/mutants

# Compares each service with a bare loop of the same clients. Takes about ten minutes. Writes the
# results to bench.json.
bench: setup
	cargo build --release --workspace --bins
	target/release/bench

# Also measures how the cost grows. Takes an hour or more.
bench-full: setup
	cargo build --release --workspace --bins
	target/release/bench --full

# Injects every kind of fault for ten minutes, then accounts for every message.
faults: setup
	cargo build --release --workspace --bins
	target/release/faults --minutes 10

# Runs ten million mutated inputs through each decoder. INPUTS and SEED set other values.
INPUTS ?= 10000000
SEED ?= 1
fuzz:
	cargo build --release -p fuzz
	target/release/fuzz --inputs $(INPUTS) --seed $(SEED)

# Builds an image of each service, and one of the embedded cloud. ENGINE is docker, podman or buildah.
# ENGINE_ARGS are options of its build, such as --build-arg RUST_IMAGE=registry.example.com/rust:1.95.
#
#   make images                                                                       dataflow-enrich:latest, ...
#   make images TAG=0.1.0 REGISTRY=europe-docker.pkg.dev/my-project/dataflow          .../dataflow-enrich:0.1.0, ...
#   make images push TAG=0.1.0 REGISTRY=europe-docker.pkg.dev/my-project/dataflow     also pushes them there
ENGINE ?= docker
TAG ?= latest
REGISTRY ?=
IMAGES = ingestion enrich bigqueries icestore postgres query emulator
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

# Builds the images first, so that the pushed images match this tree. The overlay's google-cloud.yaml must
# have the same tag.
push: images
	for image in $(IMAGES); do $(ENGINE) push $(image_name) || exit 1; done

setup:
	.ci/setup

# One image for each service and one for the embedded cloud:
#
#   docker build --target ingestion --tag dataflow-ingestion .
#
# The last stages hold one program, the C library that it needs, and the certificates of the public
# authorities; no shell, no package manager, and a user without rights.

ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS rust
# hadolint ignore=DL3008
RUN apt-get update -q \
    && apt-get install -q -y --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN cargo install cargo-chef --version 0.1.78 --locked
WORKDIR /build

# What the dependencies are, without the code.
FROM rust AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

# The dependencies: built again only when a Cargo.toml or Cargo.lock changes.
FROM rust AS programs
COPY --from=recipe /recipe.json /recipe.json
RUN cargo chef cook --recipe-path /recipe.json --profile dist --locked \
    --package ingestion --package enrich --package bigqueries --package icestore --package postgres \
    --package query --package emulator
COPY . .
RUN cargo build --profile dist --locked --bins \
    --package ingestion --package enrich --package bigqueries --package icestore --package postgres \
    --package query --package emulator

# A root file system: the libraries that the programs are linked to, by their own account.
RUN mkdir -p /root-fs/etc/ssl/certs /root-fs/tmp /empty \
    && ldd target/dist/ingestion target/dist/enrich target/dist/bigqueries target/dist/icestore \
        target/dist/postgres target/dist/query target/dist/emulator > /linked \
    && grep -o '/lib[^ ]*' /linked > /libraries \
    && xargs -I{} cp --parents -L {} /root-fs/ < /libraries \
    && cp /etc/ssl/certs/ca-certificates.crt /root-fs/etc/ssl/certs/ \
    && echo 'nonroot:x:65532:65532::/:/nonexistent' > /root-fs/etc/passwd \
    && echo 'nonroot:x:65532:' > /root-fs/etc/group \
    && echo 'hosts: files dns' > /root-fs/etc/nsswitch.conf \
    && chmod 1777 /root-fs/tmp

FROM scratch AS service
COPY --from=programs /root-fs /
USER 65532:65532
EXPOSE 8080
LABEL org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.vendor="dataflow"

FROM service AS ingestion
LABEL org.opencontainers.image.title="dataflow-ingestion" \
    org.opencontainers.image.description="Carries MQTT messages into Pub/Sub without losing one"
COPY --from=programs /build/target/dist/ingestion /ingestion
ENTRYPOINT ["/ingestion"]

FROM service AS enrich
LABEL org.opencontainers.image.title="dataflow-enrich" \
    org.opencontainers.image.description="Adds what Firestore knows about a device to its messages"
COPY --from=programs /build/target/dist/enrich /enrich
ENTRYPOINT ["/enrich"]

FROM service AS bigqueries
LABEL org.opencontainers.image.title="dataflow-bigqueries" \
    org.opencontainers.image.description="Writes Pub/Sub messages into rows of a BigQuery table"
COPY --from=programs /build/target/dist/bigqueries /bigqueries
ENTRYPOINT ["/bigqueries"]

FROM service AS icestore
LABEL org.opencontainers.image.title="dataflow-icestore" \
    org.opencontainers.image.description="Writes Pub/Sub messages into objects of Cloud Storage"
COPY --from=programs /build/target/dist/icestore /icestore
ENTRYPOINT ["/icestore"]

FROM service AS postgres
LABEL org.opencontainers.image.title="dataflow-postgres" \
    org.opencontainers.image.description="Writes messages into rows of a PostgreSQL table"
COPY --from=programs /build/target/dist/postgres /postgres
ENTRYPOINT ["/postgres"]

FROM service AS query
LABEL org.opencontainers.image.title="dataflow-query" \
    org.opencontainers.image.description="Answers queries for the rows of a PostgreSQL table over HTTP"
COPY --from=programs /build/target/dist/query /query
ENTRYPOINT ["/query"]

FROM service AS emulator
LABEL org.opencontainers.image.title="dataflow-emulator" \
    org.opencontainers.image.description="An embedded Pub/Sub, Firestore, BigQuery and Cloud Storage"
EXPOSE 8085
COPY --from=programs --chown=65532:65532 /empty /data
VOLUME ["/data"]
COPY --from=programs /build/target/dist/emulator /emulator
ENTRYPOINT ["/emulator", "--host", "0.0.0.0", "--data-dir", "/data"]

# The images of the programs. Each contains one static program and nothing else.
#
#   docker build --target operator -t couponry/operator .
#   docker build --target issuer   -t couponry/issuer .
#   docker build --target consumer -t couponry/consumer .
#   docker build --target redeemer -t couponry/redeemer .
#
# `cargo xtask images` builds all of them without Docker. It builds the programs first and passes PROGRAMS=prebuilt, so
# the stage `build` is skipped.

# The stage from which the programs are copied.
ARG PROGRAMS=build

FROM docker.io/library/rust:1.95-bookworm AS build
# Embeds the list of dependencies in each program, for `cargo audit bin` and scanners.
ARG AUDITABLE_VERSION=0.7.7
RUN apt-get update \
    && apt-get install --yes --no-install-recommends musl-tools perl \
    && rm -rf /var/lib/apt/lists/* \
    && rustup target add "$(uname -m)-unknown-linux-musl" \
    && cargo install --locked --debug "cargo-auditable@$AUDITABLE_VERSION"
WORKDIR /source
COPY . .
RUN arch=$(uname -m) \
    && target=$arch-unknown-linux-musl \
    && export "CC_${arch}_unknown_linux_musl=musl-gcc" \
    && cargo auditable build --locked --profile image --target "$target" \
          -p couponry-operator -p couponry-issuer -p couponry-consumer -p couponry-redeemer \
    && mv "target/$target/image/couponry-operator" "target/$target/image/couponry-issuer" \
          "target/$target/image/couponry-consumer" "target/$target/image/couponry-redeemer" / \
    && rm -rf target

FROM scratch AS prebuilt
COPY couponry-operator couponry-issuer couponry-consumer couponry-redeemer /

FROM ${PROGRAMS} AS programs

FROM scratch AS program
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.vendor=Couponry
# An unprivileged user which no node has.
USER 65532:65532

FROM program AS operator
LABEL org.opencontainers.image.title=couponry-operator \
      org.opencontainers.image.description="Reconciles CouponEvents: generates coupons in Postgres, loads them into Redis and reports the status."
COPY --from=programs /couponry-operator /
# POST /coupons/preload; /livez, /readyz and /metrics.
EXPOSE 8081 9090
ENTRYPOINT ["/couponry-operator"]

FROM program AS consumer
LABEL org.opencontainers.image.title=couponry-consumer \
      org.opencontainers.image.description="Records issuances from Kafka in Postgres."
COPY --from=programs /couponry-consumer /
# /livez, /readyz and /metrics.
EXPOSE 9090
ENTRYPOINT ["/couponry-consumer"]

FROM program AS redeemer
LABEL org.opencontainers.image.title=couponry-redeemer \
      org.opencontainers.image.description="Reserves, redeems and releases coupons over HTTP, for the servers of a shop."
COPY --from=programs /couponry-redeemer /
# POST /redemptions/redeem; /livez, /readyz and /metrics.
EXPOSE 8080 9090
ENTRYPOINT ["/couponry-redeemer"]

FROM program AS issuer
LABEL org.opencontainers.image.title=couponry-issuer \
      org.opencontainers.image.description="Issues coupons to users over HTTP."
COPY --from=programs /couponry-issuer /
# POST /coupons/issue; /livez, /readyz and /metrics.
EXPOSE 8080 9090
ENTRYPOINT ["/couponry-issuer"]

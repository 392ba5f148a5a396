# Two stages: a static binary, then nothing but that binary.
#
#   docker build -t pullpass:dev .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY .cargo .cargo
COPY src src
# Static glibc: no libc to patch in the final image, and no shell to break into.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# Addresses that the start adjusts, packed: half a megabyte less.
RUN cargo rustc --release --locked --bin pullpass --target "$(uname -m)-unknown-linux-gnu" \
      -- -C link-arg=-Wl,-z,pack-relative-relocs \
 && cp "target/$(uname -m)-unknown-linux-gnu/release/pullpass" /pullpass

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pullpass" \
      org.opencontainers.image.description="Gives every Pod the image pull secrets its images need" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://pullpass.dev" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /pullpass /pullpass
# What holds a whole TLS record or more goes back to the kernel once it is free, in bytes; otherwise a burst of large
# reviews, or new rules, would cost their memory for ever.
ENV GLIBC_TUNABLES="glibc.malloc.mmap_threshold=16384"
# Numeric, so that runAsNonRoot can be checked without a passwd file.
USER 65532:65532
EXPOSE 10250 8080
ENTRYPOINT ["/pullpass"]

# Build stages: worker-cpu, worker-cuda, queen, s3 (a small S3 server for docker-compose.yml).

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin sd-worker-cpu --bin queen-rbee --bin rbee-keeper

FROM rust:1.95-bookworm AS build-s3
RUN cargo install s3s-fs --version 0.14.1 --features binary --locked

# cudarc links CUDA at run time: the driver comes from the host through the NVIDIA container toolkit.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates cmake curl \
    && rm -rf /var/lib/apt/lists/* \
    && curl -fsSL https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95.0
ENV PATH=/root/.cargo/bin:$PATH
# The compute capability to build kernels for, 80 for an A100, 90 for an H100.
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP
WORKDIR /src
COPY . .
RUN cargo build --locked --release --features cuda --bin sd-worker-cuda

FROM debian:bookworm-slim AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home rbee
# Kubernetes wants to see a number to know that it is not root.
USER 10001

FROM runtime AS worker-cpu
COPY --from=build /src/target/release/sd-worker-cpu /usr/local/bin/
ENTRYPOINT ["sd-worker-cpu"]

FROM runtime AS queen
COPY --from=build /src/target/release/queen-rbee /src/target/release/rbee-keeper /usr/local/bin/
EXPOSE 7833
ENTRYPOINT ["queen-rbee"]

FROM runtime AS s3
USER root
COPY --from=build-s3 /usr/local/cargo/bin/s3s-fs /usr/local/bin/
# A bucket is a folder.
RUN mkdir -p /data/pictures && chown -R rbee /data
USER 10001
VOLUME /data
EXPOSE 9000
ENTRYPOINT ["s3s-fs", "--host", "0.0.0.0", "--port", "9000"]

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS worker-cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home rbee
COPY --from=build-cuda /src/target/release/sd-worker-cuda /usr/local/bin/
USER 10001
ENTRYPOINT ["sd-worker-cuda"]

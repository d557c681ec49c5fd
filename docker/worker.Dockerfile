# The worker, for CUDA (the default) or for the CPU with the small checkpoint in it. From the repository's root:
#   docker build -f docker/worker.Dockerfile --target cuda -t r3-worker:0.1.0-cuda .
#   docker build -f docker/worker.Dockerfile --target cpu -t r3-worker:0.1.0-cpu .
# CUDA comes with torch's own wheels; the node brings the driver. TORCH_INDEX is where a torch without CUDA comes from.
ARG BASE=debian:12.14-slim

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The base's tag says which Debian; its packages are that release's newest.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/build.txt \
 && python3 -m venv /opt/r3
COPY pyproject.toml README.md LICENSE ./
COPY r3client/ r3client/
COPY r3core/ r3core/
COPY server/ server/
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /opt/r3/bin/pip install --no-cache-dir --no-compile --index-url "${TORCH_INDEX}" -r requirements/torch.txt \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r requirements/worker.txt \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --no-deps --no-index /dist/*.whl \
 && /opt/r3/bin/pip uninstall --yes pip

FROM build AS build-cuda
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    /opt/r3/bin/pip install --no-cache-dir --no-compile -r requirements/torch.txt \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r requirements/cuda.txt \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --no-deps --no-index /dist/*.whl \
 && /opt/r3/bin/pip uninstall --yes pip

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="R3 worker" org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 r3 \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin r3 \
 && install --directory --owner 10001 --group 10001 /pictures
# The hub is never asked: weights are mounted. Caches lie under /tmp, for the root is read-only where it runs.
ENV PATH=/opt/r3/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    TRITON_CACHE_DIR=/tmp/triton \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    R3_CHECKPOINT=/weights \
    R3_IMAGE_STORE=/pictures \
    R3_WORKER_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8001
# Loading 29 GB may take minutes: /livez is 200 all the while.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8001/livez', timeout=2)"]
ENTRYPOINT ["r3"]
CMD ["worker"]

FROM runtime AS cpu
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libtcmalloc-minimal4 \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY checkpoints/small /weights
COPY --from=build-cpu /opt/r3 /opt/r3
# r3core/malloc.py says what for.
ENV R3_DEVICE=cpu \
    LD_PRELOAD=libtcmalloc_minimal.so.4

FROM runtime AS cuda
COPY --from=build-cuda /opt/r3 /opt/r3
ENV R3_DEVICE=cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The API: no torch, no CUDA, no weights. From the repository's root:
#   docker build -f docker/api.Dockerfile -t r3-api:0.1.0 .
# An index of your own: --secret id=pip,src=pip.conf; where your own authority signs it, --secret id=ca,src=ca.pem too, and
# cert = /etc/ssl/certs/ca-certificates.crt in pip.conf. Neither is in any layer.
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
 && python3 -m venv /opt/r3 \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r requirements/api.txt
COPY pyproject.toml README.md LICENSE ./
COPY r3client/ r3client/
COPY r3core/ r3core/
COPY server/ server/
# What only builds or tests goes: pip, and the tests of others' packages.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
 && /opt/r3/bin/pip install --no-cache-dir --no-compile --no-deps --no-index /dist/*.whl \
 && /opt/r3/bin/pip uninstall --yes pip setuptools \
 && find /opt/r3/lib -depth -type d -name tests -path '*/numpy/*' -exec rm -rf {} +

FROM ${BASE}
LABEL org.opencontainers.image.title="R3 API" org.opencontainers.image.licenses="Apache-2.0"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 r3 \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin r3 \
 && install --directory --owner 10001 --group 10001 /pictures
COPY --from=build /opt/r3 /opt/r3
# PYTHONDONTWRITEBYTECODE: the root is read-only where it runs.
ENV PATH=/opt/r3/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    R3_HOST=0.0.0.0 \
    R3_AUTH=keys \
    R3_IMAGE_STORE=/pictures
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["r3"]
CMD ["api"]

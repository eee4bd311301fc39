# The service without a model, or with MODEL baked in. How to build and run it: README.md, "Container".

# Debian 12: the system that the service is proven on, and its own Python (3.11), kept safe by Debian for
# years. Any Debian or Ubuntu with glibc 2.35 and Python 3.10 to 3.13 does, such as debian:trixie-slim
# or python:3.13-slim, whose Python is then used.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
RUN command -v python3 >/dev/null || { \
      apt-get update -q && \
      apt-get install -yq --no-install-recommends python3 && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/*; }

FROM base AS builder
RUN python3 -c 'import ensurepip' 2>/dev/null || { \
      apt-get update -q && apt-get install -yq --no-install-recommends python3-venv; }
RUN python3 -m venv /opt/qwen-appliance/venv
# First the packages, which change seldom, then the service.
COPY provisioning/requirements/run.lock /build/
RUN /opt/qwen-appliance/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
      --no-deps --require-hashes --only-binary=:all: -r /build/run.lock
COPY pyproject.toml README.md LICENSE /build/
COPY appliance /build/appliance
# Only OpenVINO's CPU plugin is ever used; pip and setuptools have done their work.
RUN /opt/qwen-appliance/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
      --no-deps --no-build-isolation --no-index /build && \
    /opt/qwen-appliance/venv/bin/pip uninstall -yq setuptools pip && \
    cd /opt/qwen-appliance/venv/lib/python3*/site-packages/openvino/libs && \
    rm -f libopenvino_intel_gpu_plugin.so libopenvino_intel_npu_plugin.so cache.json

FROM base AS runtime
LABEL org.opencontainers.image.title="qwen-appliance" \
      org.opencontainers.image.description="An OpenAI-compatible chat endpoint for small language models on small CPU boxes" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can tell that it is not root (runAsNonRoot).
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin \
      qwen-appliance && \
    install -d -o 10001 -g 10001 -m 0700 /data /data/kv /data/cache /data/qwen-appliance
COPY --from=builder /opt/qwen-appliance /opt/qwen-appliance
ARG MODEL=provisioning/no-model
COPY ${MODEL} /model/

# All that is written lies in /data: API keys (XDG_CONFIG_HOME), known prefixes (STATE_DIRECTORY),
# compiled models and the calibration (XDG_CACHE_HOME). A secret `api-keys` is found as systemd's would
# be (CREDENTIALS_DIRECTORY). `docker stop` kills after 10 s, so what runs is given 6 before.
ENV PATH=/opt/qwen-appliance/venv/bin:$PATH \
    container=oci \
    QWEN_APPLIANCE_MODEL_DIR=/model \
    QWEN_APPLIANCE_SERVER_HOST=0.0.0.0 \
    QWEN_APPLIANCE_SERVER_SHUTDOWN_GRACE_S=6 \
    HOME=/data \
    XDG_CONFIG_HOME=/data \
    XDG_CACHE_HOME=/data/cache \
    STATE_DIRECTORY=/data/kv \
    CREDENTIALS_DIRECTORY=/run/secrets \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    HF_HUB_OFFLINE=1 \
    PYTHONFAULTHANDLER=1 PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
VOLUME /data
WORKDIR /data
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
  CMD ["qwen-appliance", "health"]
ENTRYPOINT ["qwen-appliance"]
CMD ["serve"]

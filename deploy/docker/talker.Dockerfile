# The talker with code2wav. VARIANT=gpu (CUDA; the driver is the node's) or cpu.
# From the repository's root: docker build -f deploy/docker/talker.Dockerfile --build-arg VARIANT=cpu -t antiphon-talker:local .
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm
ARG VARIANT=gpu

FROM ${PYTHON_IMAGE} AS needs
WORKDIR /build
COPY pyproject.toml deploy/docker/install.sh ./
RUN ./install.sh list talker >/needs.txt

FROM ${PYTHON_IMAGE} AS build
ARG VARIANT
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY requirements.lock requirements-gpu.lock deploy/docker/install.sh services/common/torchvision_cpu.py ./
COPY --from=needs /needs.txt /
RUN --mount=type=cache,target=/root/.cache/pip ./install.sh dependencies "${VARIANT}"
COPY pyproject.toml README.md ./
COPY protos protos
COPY services/__init__.py services/
COPY services/common services/common
COPY services/talker services/talker
RUN ./install.sh code

FROM ${PYTHON_IMAGE}
ARG VARIANT
LABEL org.opencontainers.image.title="antiphon-talker"
RUN useradd --uid 10001 --user-group --home-dir /cache --no-create-home --shell /usr/sbin/nologin antiphon \
    && install -d -o antiphon -g antiphon /cache /models
# Triton compiles a small launcher in C for each kernel that it makes.
# hadolint ignore=DL3008
RUN if [ "${VARIANT}" = gpu ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:${PATH} PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache NVIDIA_DRIVER_CAPABILITIES=compute,utility HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    ANTIPHON_GRPC_HOST=0.0.0.0 ANTIPHON_GRPC_PORT=9000 ANTIPHON_METRICS_HOST=0.0.0.0 ANTIPHON_METRICS_PORT=9090
USER 10001:10001
WORKDIR /app
EXPOSE 9000 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python", "-m", "services.common.health_probe"]
ENTRYPOINT ["python", "-m", "services.talker"]

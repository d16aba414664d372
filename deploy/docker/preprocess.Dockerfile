# Preprocess: media and messages to features. It runs on CPUs beside GPU thinkers too; vLLM's classes are the form of
# its features, so the CPU build of vLLM is in the image.
# From the repository's root: docker build -f deploy/docker/preprocess.Dockerfile -t antiphon-preprocess:local .
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS needs
WORKDIR /build
COPY pyproject.toml deploy/docker/install.sh ./
RUN ./install.sh list preprocess,cpu >/needs.txt

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY requirements.lock deploy/docker/install.sh services/common/torchvision_cpu.py ./
COPY --from=needs /needs.txt /
RUN --mount=type=cache,target=/root/.cache/pip ./install.sh dependencies cpu
COPY pyproject.toml README.md ./
COPY protos protos
COPY services/__init__.py services/
COPY services/common services/common
COPY services/preprocess services/preprocess
COPY services/weights services/weights
RUN ./install.sh code

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="antiphon-preprocess"
RUN useradd --uid 10001 --user-group --home-dir /cache --no-create-home --shell /usr/sbin/nologin antiphon \
    && install -d -o antiphon -g antiphon /cache /models
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:${PATH} PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache HF_HOME=/cache/huggingface \
    ANTIPHON_GRPC_HOST=0.0.0.0 ANTIPHON_GRPC_PORT=9000 ANTIPHON_METRICS_HOST=0.0.0.0 ANTIPHON_METRICS_PORT=9090
USER 10001:10001
WORKDIR /app
EXPOSE 9000 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-m", "services.common.health_probe"]
ENTRYPOINT ["python", "-m", "services.preprocess"]

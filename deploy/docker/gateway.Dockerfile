# The gateway: the public API. No model, no torch.
# From the repository's root: docker build -f deploy/docker/gateway.Dockerfile -t antiphon-gateway:local .
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS needs
WORKDIR /build
COPY pyproject.toml deploy/docker/install.sh ./
RUN ./install.sh list gateway,s3,webrtc >/needs.txt

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY requirements.lock deploy/docker/install.sh ./
COPY --from=needs /needs.txt /
RUN --mount=type=cache,target=/root/.cache/pip ./install.sh dependencies none
COPY pyproject.toml README.md ./
COPY protos protos
COPY services/__init__.py services/
COPY services/common services/common
COPY services/gateway services/gateway
RUN ./install.sh code

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="antiphon-gateway"
RUN useradd --uid 10001 --user-group --home-dir /cache --no-create-home --shell /usr/sbin/nologin antiphon \
    && install -d -o antiphon -g antiphon /cache
COPY --from=build /venv /venv
COPY --from=build /app /app
ENV PATH=/venv/bin:${PATH} PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache \
    ANTIPHON_GRPC_HOST=0.0.0.0 ANTIPHON_GRPC_PORT=9000 ANTIPHON_METRICS_HOST=0.0.0.0 ANTIPHON_METRICS_PORT=9090 \
    ANTIPHON_HTTP_HOST=0.0.0.0 ANTIPHON_HTTP_PORT=8901
USER 10001:10001
WORKDIR /app
EXPOSE 8901 9000 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "services.common.health_probe"]
ENTRYPOINT ["python", "-m", "services.gateway"]

"""compose.yaml, as podman-compose resolves it, is valid, accepted by the services, and locked down."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from services.common.settings import END_S, ProcessSettings, ServiceSettings, load_settings
from services.common.settings_check import settings_class
from services.control.settings import ControlSettings
from services.gateway.settings import GatewaySettings
from services.talker.settings import TalkerSettings
from services.thinker.settings import ThinkerSettings
from tests.deploy.files import DEPLOY, IN_COMPOSE, load_yaml, read_dockerfile

CPU, GPU = ("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")
TENANTS = {"acme": [64 * "0"], "beta": [64 * "1", 64 * "2"]}
SECRETS = {
    "GATEWAY_TOKEN": "the-token-of-the-gateways",
    "ADMIN_KEY": "the-first-key-of-operators",
    "POSTGRES_PASSWORD": "/+=@%# s3cret",
}
VARIABLE = re.compile(r"\$\{(\w+)")


@cache
def configured(files: tuple[str, ...], control: bool = False) -> dict[str, Any]:
    """Return the merged files, with the variables of example.env and a key, and with those of the control plane."""
    named = [word for file in files for word in ("-f", str(DEPLOY / file))]
    # A dry run needs no podman.
    command = [sys.executable, "-m", "podman_compose", "--dry-run", "--env-file", str(DEPLOY / "example.env"), *named]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE")}
    run = subprocess.run(
        [*command, "--profile", "observe", "--profile", "control", "config"],
        env=environ | (SECRETS if control else {"API_KEY": "sk-some", "TENANT_KEYS": json.dumps(TENANTS)}),
        capture_output=True,
        text=True,
        check=True,
    )
    return yaml.safe_load(run.stdout)


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("files", [CPU, GPU], ids=["cpu", "gpu"])
def test_it_is_valid_by_the_compose_specification(files: tuple[str, ...]) -> None:
    names = PyCompose.from_yaml(yaml.safe_dump(configured(files))).service_names()
    assert set(names) == {*IN_COMPOSE, "control", "postgres", "valkey", "prometheus", "grafana", "otel-collector"}


@pytest.mark.parametrize("files", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("service", IN_COMPOSE)
def test_a_service_accepts_its_environment(
    service: str, files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    described = configured(files)["services"][service]
    settings = loaded(monkeypatch, service, described)
    assert isinstance(settings, ServiceSettings)
    assert settings.redis_url == "redis://valkey:6379/0"
    assert seconds(described["stop_grace_period"]) >= settings.drain_s + END_S
    if isinstance(settings, GatewaySettings):
        assert settings.api_key.get_secret_value() == "sk-some"
        assert settings.tenant_keys == TENANTS
        assert described["ports"] == [f"127.0.0.1:8901:{settings.http_port}"]
    else:
        assert settings.advertise_host == service
    if isinstance(settings, TalkerSettings):
        assert settings.device == ("cuda" if files == GPU else "cpu")
    if isinstance(settings, ThinkerSettings):
        assert settings.tensor_parallel_size == 1


@pytest.mark.parametrize("service", ["gateway", "preprocess"])
def test_what_requests_may_take_follows_from_a_limit_as_in_the_chart(service: str) -> None:
    chart = yaml.safe_load((DEPLOY.parent / f"helm/{service}/values.yaml").read_text())
    in_compose = configured(CPU)["services"][service]["mem_limit"]
    assert in_compose.removesuffix("g") == chart["resources"]["memory"].removesuffix("Gi")


def loaded(monkeypatch: pytest.MonkeyPatch, service: str, described: dict[str, Any]) -> ProcessSettings:
    for name in [name for name in os.environ if name.startswith("ANTIPHON_")]:
        monkeypatch.delenv(name)
    for name, value in (read_dockerfile(service).environ | described["environment"]).items():
        if name.startswith("ANTIPHON_"):
            monkeypatch.setenv(name, value)
    return load_settings(settings_class(service))


def test_the_control_plane_and_the_gateway_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    services = configured(CPU, control=True)["services"]
    control = loaded(monkeypatch, "control", services["control"])
    assert isinstance(control, ControlSettings)
    assert seconds(services["control"]["stop_grace_period"]) >= control.drain_s + END_S
    assert services["control"]["ports"] == [f"127.0.0.1:8902:{control.http_port}"]
    url, postgres = control.database.url, services["postgres"]["environment"]
    assert (url.host, url.username, url.database) == ("postgres", postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
    assert url.password == postgres["POSTGRES_PASSWORD"] == SECRETS["POSTGRES_PASSWORD"]
    assert control.bootstrap_admin_key.get_secret_value() == SECRETS["ADMIN_KEY"]
    gateway = loaded(monkeypatch, "gateway", services["gateway"])
    assert isinstance(gateway, GatewaySettings)
    assert gateway.control_address == f"control:{control.grpc_port}"
    assert gateway.control_token == control.gateway_token
    assert gateway.control_cache_file == Path("/cache/tenants.pb")
    assert control.redis_url == gateway.redis_url, "the gateways' usage records"
    assert "control" not in services["gateway"]["depends_on"], "a gateway starts without it"


@pytest.mark.parametrize("service", [*IN_COMPOSE, "control"])
def test_a_service_runs_its_image_unchanged(service: str) -> None:
    described = configured(CPU)["services"][service]
    assert "command" not in described
    assert "entrypoint" not in described
    assert described["build"]["dockerfile"] == f"deploy/docker/{service}.Dockerfile"
    assert described["image"].startswith(f"antiphon-{service}:")


def test_every_container_is_locked_down() -> None:
    for name, described in configured(CPU)["services"].items():
        assert described["read_only"] is True, name
        assert described["cap_drop"] == ["ALL"], name
        assert described["security_opt"] == ["no-new-privileges:true"], name
        assert not described.get("privileged"), name
        assert not str(described.get("user", "1")).startswith("0"), name
        assert ":" in described["image"].rpartition("/")[2], f"{name}: an image without a tag"
        assert not described["image"].endswith(":latest"), name


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for described in configured(CPU)["services"].values() for port in described.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_example_has_exactly_the_variables_in_use() -> None:
    used = {name for file in GPU for name in VARIABLE.findall((DEPLOY / file).read_text())}
    lines = (DEPLOY / "example.env").read_text().splitlines()
    assert {line.partition("=")[0] for line in lines if line and not line.startswith("#")} == used


def test_a_missing_models_folder_is_named() -> None:
    required = {"MODELS", "MODEL"}
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == required


def test_prometheus_scrapes_every_service_on_its_metrics_port() -> None:
    scraped = load_yaml(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"]
    targets = {
        entry["job_name"]: entry["static_configs"][0]["targets"] for entry in scraped if "static_configs" in entry
    }
    for service in IN_COMPOSE:
        port = read_dockerfile(service).environ["ANTIPHON_METRICS_PORT"]
        assert targets[f"antiphon-{service}"] == [f"{service}:{port}"]
    # By DNS: without its profile there is no target that would be down.
    (control,) = [entry for entry in scraped if entry["job_name"] == "antiphon-control"]
    port = int(read_dockerfile("control").environ["ANTIPHON_METRICS_PORT"])
    assert control["dns_sd_configs"] == [{"names": ["control"], "type": "A", "port": port}]


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    services = configured(CPU)["services"]
    provisioning = DEPLOY / "grafana/provisioning"
    (source,) = load_yaml(provisioning / "datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load_yaml(provisioning / "dashboards/antiphon.yaml")["providers"]
    assert f"./grafana:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_the_collector_listens_where_the_example_exports_spans() -> None:
    collector = load_yaml(DEPLOY / "otel/collector.yaml")
    endpoint = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert f"otel-collector:{endpoint.rpartition(':')[2]}" in (DEPLOY / "compose.yaml").read_text()


QUEUES_BYTES = 64 * 1024**2
"""Far more than the tickets of three full queues take, of a kilobyte each."""


RECORD_BYTES = 400
"""Of a usage record in the stream: docs/runbook.md#antiphonmeteringlate says so to operators."""


def test_redis_has_room_for_what_gateways_keep_and_as_much_again() -> None:
    kept = ("kept_answers_bytes", "kept_responses_bytes", "idempotency_bytes")
    kept_bytes = sum(GatewaySettings.model_fields[name].default for name in kept)
    command = configured(CPU)["services"]["valkey"]["command"]
    in_compose = int(command[command.index("--maxmemory") + 1].removesuffix("mb")) * 1024**2
    chart = yaml.safe_load((DEPLOY.parent / "helm/antiphon/values.yaml").read_text())
    in_chart = int(chart["redis"]["resources"]["memory"].removesuffix("Mi")) * 1024**2 * 3 // 4
    room = min(in_compose, in_chart)
    assert room >= 2 * kept_bytes
    # Realtime sessions are kept where the operator gives a key, and records wait while the control plane is away. The
    # queues have their part still.
    turns = (DEPLOY.parent / "services/gateway/usage/lua/turns.lua").read_text()
    found = re.search(r"^local MOST_RECORDS = (\d+) ", turns, re.MULTILINE)
    assert found
    records_bytes = int(found[1]) * RECORD_BYTES
    sessions_bytes = GatewaySettings.model_fields["realtime_kept_bytes"].default
    assert room - kept_bytes - sessions_bytes - records_bytes >= QUEUES_BYTES

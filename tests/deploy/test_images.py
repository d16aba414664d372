"""The Dockerfiles pass the linter and match the services."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from services.common.settings import load_settings
from services.common.settings_check import settings_class
from services.local.checkpoint.trained import TRAINED_DIR
from tests.deploy.files import DEPLOY, ROOT, SERVICES, read_dockerfile
from tests.deploy.packages import import_with_only, needs

HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
PORTS = {service: {"9000", "9090"} for service in SERVICES} | {
    "gateway": {"9000", "9090", "8901"},
    "control": {"9000", "9090", "8902"},
}
TORCH = dict.fromkeys(SERVICES, "none") | {
    "preprocess": "cpu",
    "thinker": "${VARIANT}",
    "talker": "${VARIANT}",
}
BESIDE = {"preprocess": ["services/weights"]}
"""What an image holds besides: the job that brings the weights runs in preprocess's."""
NEEDED = {
    "ANTIPHON_REDIS_URL": "redis://valkey:6379/0",
    "ANTIPHON_ALLOW_ANONYMOUS": "true",
    "ANTIPHON_MODEL": "/models/some",
    "ANTIPHON_GATEWAY_TOKEN": "a-token-of-24-characters",
}


def test_every_service_has_exactly_one_image() -> None:
    assert {path.name for path in (DEPLOY / "docker").iterdir()} == {
        "install.sh",
        *(f"{service}.Dockerfile" for service in SERVICES),
    }


@pytest.mark.parametrize("service", SERVICES)
def test_hadolint_finds_nothing(service: str) -> None:
    linted = subprocess.run([HADOLINT, "--failure-threshold", "style", read_dockerfile(service).path], check=False)
    assert linted.returncode == 0


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_without_root_and_probes_its_health(service: str) -> None:
    dockerfile = read_dockerfile(service)
    assert dockerfile.last("USER") == "10001:10001"
    assert dockerfile.entrypoint == ["python", "-m", f"services.{service}"]
    assert '"services.common.health_probe"' in dockerfile.last("HEALTHCHECK")
    assert set(dockerfile.last("EXPOSE").split()) == PORTS[service]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_its_own_service_and_the_common_code(service: str) -> None:
    copied = [line.split() for line in read_dockerfile(service).all("COPY")]
    folders = {words[0] for words in copied if words[0].startswith("services/") and len(words) == 2}
    assert folders == {"services/__init__.py", "services/common", f"services/{service}", *BESIDE.get(service, ())}


@pytest.mark.parametrize("service", SERVICES)
def test_all_stages_have_the_same_pinned_base(service: str) -> None:
    dockerfile = read_dockerfile(service)
    assert dockerfile.all("ARG")[0] == "PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm"
    assert dockerfile.all("FROM") == ["${PYTHON_IMAGE} AS needs", "${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


@pytest.mark.parametrize("service", SERVICES)
def test_an_images_extras_exist_and_install_the_right_torch(service: str) -> None:
    runs = read_dockerfile(service).all("RUN")
    (extras,) = (line.split()[2].strip('"') for line in runs if "install.sh list" in line)
    (torch,) = (line.split()[-1].strip('"') for line in runs if "install.sh dependencies" in line)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for variant in ("cpu", "gpu"):
        assert set(extras.replace("${VARIANT}", variant).split(",")) <= set(known)
    assert torch == TORCH[service]


@pytest.mark.parametrize("service", SERVICES)
def test_the_environment_of_an_image_loads_as_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = settings_class(service)
    given = NEEDED | read_dockerfile(service).environ
    for name, value in given.items():
        if name.startswith("ANTIPHON_") and name.removeprefix("ANTIPHON_").lower() in cls.model_fields:
            monkeypatch.setenv(name, value)
    for name in read_dockerfile(service).environ:
        assert not name.startswith("ANTIPHON_") or name.removeprefix("ANTIPHON_").lower() in cls.model_fields
    settings = load_settings(cls)
    assert (settings.grpc_host, settings.grpc_port) == ("0.0.0.0", 9000)
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9090)


def test_copied_files_pass_the_dockerignore() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for service in SERVICES:
        for line in read_dockerfile(service).all("COPY"):
            for source in line.split()[:-1]:
                if not source.startswith(("--", "/")):
                    assert any(source == path or source.startswith(path + "/") for path in allowed), source


def test_the_local_stacks_checkpoint_is_in_no_image_and_no_wheel() -> None:
    folder = TRAINED_DIR.relative_to(ROOT)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored.index("!services") < ignored.index(str(folder))  # the last line that matches decides
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert packaged["services.local.checkpoint"] == ["corpus.txt"]
    assert not (ROOT / "MANIFEST.in").exists()


@pytest.mark.parametrize("service", SERVICES)
def test_an_images_requirements_match_its_extras(service: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = (line for line in read_dockerfile(service).all("RUN") if "install.sh list" in line)
    extras = line.split()[2].strip('"').replace("${VARIANT}", "cpu")
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [DEPLOY / "docker/install.sh", "list", extras]
    listed = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout.split()
    wanted = [name for extra in [*extras.split(","), "service"] for name in project["optional-dependencies"][extra]]
    assert sorted(listed) == sorted(name for name in wanted if not name.startswith("antiphon["))
    assert project["dependencies"] == []


@pytest.mark.parametrize("service", ["control", "gateway", "scaler"])
def test_a_service_imports_with_only_its_images_packages(service: str) -> None:
    """Third-party libraries check what is installed; `make prove-images` tests them in their images."""
    settings_class(service)
    more = ["webrtc"] if service == "gateway" else []  # whose modules are imported where a setting asks for them
    imported = import_with_only(needs(service, *more), f"services.{service}", "antiphon")
    assert imported.returncode == 0, imported.stderr
    assert int(imported.stdout) > 5

"""The job that makes the Redis password: its rendered command against an API server that enforces its Role."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.api_server import TlsServer
from tests.fixtures.tls import make_certificates
from tests.fixtures.wait import HANGS_AFTER_S
from tests.helm.render import NAMESPACE, Object, component, container_of, of_kind, pod_of, rendered

CELL = "as it is"
TOKEN = "the-accounts-token"
MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
FIELD = "password"


class ApiServer(TlsServer):
    """An API server with the Secrets of one namespace. It authorizes as RBAC does."""

    def __init__(self, folder: Path, rules: list[Object]) -> None:
        super().__init__(folder, Requests)
        self.rules = rules
        self.secrets: dict[str, Object] = {}
        self.broken = False
        self.made_meanwhile: dict[str, Object] = {}

    def allows(self, verb: str, name: str) -> bool:
        return any(
            rule["apiGroups"] == [""]
            and rule["resources"] == ["secrets"]
            and verb in rule["verbs"]
            and name in rule["resourceNames"]
            for rule in self.rules
        )


class Requests(BaseHTTPRequestHandler):
    server: ApiServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self._answer(lambda name: self._read(name) if self.server.allows("get", name) else (403, {}))

    def do_PATCH(self) -> None:
        self._answer(self._apply)

    def _read(self, name: str) -> tuple[int, Object]:
        found = self.server.secrets.get(name)
        return (200, found) if found else (404, {"kind": "Status", "message": f'secrets "{name}" not found'})

    def _apply(self, name: str) -> tuple[int, Object]:
        """Apply an object. Kubernetes authorizes one that creates as both `patch` and `create`, with the name."""
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        assert "fieldManager=" in self.path
        assert given["metadata"]["name"] == name
        self.server.secrets |= self.server.made_meanwhile
        if not (self.server.allows("patch", name) and self.server.allows("create", name)):
            return 403, {"kind": "Status", "message": "forbidden"}
        if name in self.server.secrets:
            return 409, {"kind": "Status", "message": "Apply failed with 1 conflict"}
        self.server.secrets[name] = given
        return 201, given

    def _answer(self, how: Any) -> None:
        assert self.headers["Authorization"] == f"Bearer {TOKEN}"
        place, _, name = self.path.partition("?")[0].rpartition("/")
        assert place == f"/api/v1/namespaces/{NAMESPACE}/secrets"
        status, body = (500, {"kind": "Status", "message": "etcd"}) if self.server.broken else how(name)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def hook(kind: str) -> Object:
    found = [item for item in of_kind(rendered("helm-4", "antiphon", CELL), kind) if component(item) == "redis-auth"]
    assert len(found) == 1
    return found[0]


@pytest.fixture
def server(tmp_path: Path) -> Generator[ApiServer]:
    with ApiServer(tmp_path, hook("Role")["rules"]).running() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder with the account's token and the server's CA, as the kubelet mounts it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return tmp_path


def run(server: ApiServer, folder: Path, job: Object | None = None) -> subprocess.CompletedProcess[str]:
    """Run the job's command. Without one, that of the Redis password."""
    container = container_of(job or hook("Job"))
    python, flag, text = container["command"]
    assert (python, flag) == ("python", "-c")
    assert MOUNT in text
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    environ |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.server_port)}
    command = [sys.executable, "-I", flag, text.replace(MOUNT, str(folder))]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_it_makes_a_long_password_once(server: ApiServer, folder: Path) -> None:
    first = run(server, folder)
    assert first.returncode == 0, first.stderr
    made = json.loads(json.dumps(server.secrets["rel-redis-auth"]))
    password = base64.b64decode(made["data"][FIELD]).decode()
    assert len(password) >= 32
    assert password not in first.stdout + first.stderr
    assert run(server, folder).returncode == 0
    assert server.secrets == {"rel-redis-auth": made}
    server.secrets.clear()
    run(server, folder)
    assert server.secrets["rel-redis-auth"]["data"] != made["data"]


def test_the_pods_read_the_secret_that_it_makes(server: ApiServer, folder: Path) -> None:
    assert run(server, folder).returncode == 0
    ((name, secret),) = server.secrets.items()
    for found in of_kind(rendered("helm-4", "antiphon", CELL), "Deployment"):
        (entry,) = [entry for entry in container_of(found)["env"] if "REDIS_PASSWORD" in entry["name"]]
        reference = entry["valueFrom"]["secretKeyRef"]
        assert reference["name"] == name
        assert reference["key"] in secret["data"]


def test_it_keeps_the_password_of_an_earlier_release(server: ApiServer, folder: Path) -> None:
    server.secrets["rel-redis"] = {"data": {FIELD: encoded("from before")}}
    assert run(server, folder).returncode == 0
    assert server.secrets["rel-redis-auth"]["data"] == {FIELD: encoded("from before")}


def test_it_leaves_a_secret_that_exists(server: ApiServer, folder: Path) -> None:
    server.secrets["rel-redis-auth"] = {"data": {FIELD: encoded("mine")}}
    server.secrets["rel-redis"] = {"data": {FIELD: encoded("from before")}}
    assert run(server, folder).returncode == 0
    assert server.secrets["rel-redis-auth"]["data"] == {FIELD: encoded("mine")}


def test_a_secret_created_meanwhile_stays(server: ApiServer, folder: Path) -> None:
    server.made_meanwhile["rel-redis-auth"] = {"data": {FIELD: encoded("theirs")}}
    assert run(server, folder).returncode == 0
    assert server.secrets["rel-redis-auth"]["data"] == {FIELD: encoded("theirs")}


def test_a_secret_without_the_key_is_named(server: ApiServer, folder: Path) -> None:
    server.secrets["rel-redis-auth"] = {"data": {"another": encoded("mine")}}
    ended = run(server, folder)
    assert ended.returncode == 1
    assert "rel-redis-auth has no 'password'" in ended.stderr
    assert "global.redis.passwordSecret.key" in ended.stderr


def test_a_server_error_fails_the_job_with_one_line(server: ApiServer, folder: Path) -> None:
    server.broken = True
    ended = run(server, folder)
    assert ended.returncode == 1
    assert "500" in ended.stderr
    assert "etcd" in ended.stderr
    assert TOKEN not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_server_is_not_trusted(server: ApiServer, folder: Path) -> None:
    make_certificates(folder)  # not the server's authority
    ended = run(server, folder)
    assert ended.returncode == 1
    assert "API server does not answer" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_hooks_run_first_and_are_deleted() -> None:
    weights: dict[str, int] = {}
    for kind in ("NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "Job"):
        annotations = hook(kind)["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
        weights[kind] = int(annotations["helm.sh/hook-weight"])
    assert max(weight for kind, weight in weights.items() if kind != "Job") < weights["Job"]
    (subject,) = hook("RoleBinding")["subjects"]
    assert subject["name"] == hook("ServiceAccount")["metadata"]["name"] == pod_of(hook("Job"))["serviceAccountName"]


def test_argo_cd_does_not_claim_the_secret(server: ApiServer, folder: Path) -> None:
    # Argo CD marks an application's objects with this label, and prunes those that the repository does not render.
    run(server, folder)
    assert "app.kubernetes.io/instance" not in server.secrets["rel-redis-auth"]["metadata"]["labels"]


@pytest.mark.parametrize(
    "cell",
    ["Redis over TLS, Ingress, checked download", "Sentinel, Gateway API", "a Redis URL in a Secret, placed pods"],
)
def test_an_external_redis_needs_no_job(cell: str) -> None:
    objects = rendered("helm-4", "antiphon", cell)
    assert not [item for item in objects if component(item) == "redis-auth"]

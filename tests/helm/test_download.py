"""The download job. Its script marks only complete and correct files, and an upgrade can replace the job."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.cells import Values
from tests.helm.render import Object, container_of, of_kind, template, weights_job
from tests.weights.hub import REPOSITORY, Hub, running

FETCH = 'echo "fetched" >> "$TARGET/log"; printf "%s" "$CONTENT" > "$TARGET/config.json"'
RIGHT = "weights"


SUMS = f"{hashlib.sha256(RIGHT.encode()).hexdigest()}  config.json"


def objects_of(values: Values) -> tuple[Object, ...]:
    ended = template("helm-4", "antiphon", values)
    assert ended.returncode == 0, ended.stderr
    return tuple(item for item in yaml.safe_load_all(ended.stdout) if item)


def run(folder: Path, download: dict[str, str], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the rendered script with its volumes in `folder`."""
    objects = objects_of({"global": {"weights": {"download": download}, "model": {"repository": REPOSITORY}}})
    job = weights_job(objects)
    (told,) = [item for item in of_kind(objects, "ConfigMap") if "SHA256SUMS" in item["data"]]
    (folder / "SHA256SUMS").write_text(told["data"]["SHA256SUMS"])
    environ |= {entry["name"]: entry["value"].replace("/models", str(folder)) for entry in container_of(job)["env"]}
    shell, flag, script = container_of(job)["command"]
    script = script.replace("/checksums", str(folder))
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([shell, flag, script], env=environ, capture_output=True, text=True, check=False)


def test_only_correct_files_are_marked_and_not_downloaded_again(tmp_path: Path) -> None:
    own = {"command": FETCH, "checksums": SUMS}
    target = tmp_path / "Tiny"
    mark = target / ".antiphon-main"
    assert run(tmp_path, own, CONTENT="wrong").returncode != 0
    assert not mark.exists()
    assert run(tmp_path, own, CONTENT=RIGHT).returncode == 0
    assert mark.exists()
    assert run(tmp_path, own, CONTENT="wrong").returncode == 0
    assert (target / "config.json").read_text() == RIGHT
    assert (target / "log").read_text().count("fetched") == 2


def test_files_from_modelscope_are_checked_before_the_mark(tmp_path: Path) -> None:
    mark = tmp_path / "Tiny/.antiphon-master"
    with running(Hub({"config.json": RIGHT.encode(), "model.safetensors": b"tensors" * 1000})) as hub:
        given = {"source": "modelscope", "endpoint": hub.endpoint}
        hub.cut_after = [3]
        hub.sums["model.safetensors"] = "0" * 64
        refused = run(tmp_path, given)
        assert refused.returncode != 0
        assert "model.safetensors: its sha256 is" in refused.stderr
        assert not mark.exists()
        hub.sums.clear()
        ended = run(tmp_path, given | {"checksums": SUMS})
        assert ended.returncode == 0, ended.stderr
        assert mark.exists()
        assert (tmp_path / "Tiny/model.safetensors").read_bytes() == b"tensors" * 1000
        hub.asked.clear()
        assert run(tmp_path, given).returncode == 0
        assert hub.asked == []


@pytest.mark.parametrize(
    "shared",
    [
        {"image": {"tag": "2.0.0"}},
        {"image": {"pullPolicy": "Always"}},
        {"image": {"pullSecrets": [{"name": "regcred"}]}},
        {"weights": {"download": {"checksums": SUMS}}},
        {"weights": {"download": {"tokenSecret": {"name": "hub"}}}},
        {"model": {"repository": REPOSITORY}},
    ],
    ids=str,
)
def test_a_change_to_the_pod_template_makes_a_new_job(shared: dict[str, Any]) -> None:
    # Kubernetes refuses to change a job's pod template, and Helm would then fail the whole upgrade.
    old, new = (weights_job(objects_of({"global": given})) for given in ({}, shared))
    assert old["metadata"]["name"] != new["metadata"]["name"]
    assert old == weights_job(objects_of({"thinker": {"replicas": 3}}))

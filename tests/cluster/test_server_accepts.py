"""The API server accepts every object of the matrix without a warning, at the strictest level of pod security."""

from __future__ import annotations

import json

import pytest

from tests.cluster.tools import as_pod, kubectl, manifest, release, warnings
from tests.helm.cells import CELLS
from tests.helm.render import NAMESPACE, VERSIONS, rendered, workloads

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("namespace_of_tests")]
cells = pytest.mark.parametrize(("chart", "cell"), CELLS)
APPLY = ("apply", "--server-side", "--dry-run=server", "--validate=strict", f"--namespace={NAMESPACE}", "--filename=-")


@pytest.mark.parametrize("where", ["client", "server"])
@pytest.mark.parametrize("version", VERSIONS)
@cells
def test_a_dry_run_installs(version: str, where: str, chart: str, cell: str) -> None:
    said = release(version, "install", f"--dry-run={where}", chart=chart, values=CELLS[chart, cell])
    assert "MANIFEST:" in said


@cells
def test_every_field_is_known(chart: str, cell: str) -> None:
    ended = kubectl(*APPLY, given=manifest("helm-4", chart, CELLS[chart, cell]))
    assert ended.returncode == 0, ended.stderr
    assert warnings(ended.stderr) == []


@cells
def test_every_pod_is_admitted(chart: str, cell: str) -> None:
    # The server checks the templates of Deployments and Jobs, but not those of a LeaderWorkerSet.
    pods = [as_pod(found) for found in workloads(rendered("helm-4", chart, cell))]
    listed = {"apiVersion": "v1", "kind": "List", "items": pods}
    ended = kubectl(*APPLY, given=json.dumps(listed))
    assert ended.returncode == 0, ended.stderr
    assert warnings(ended.stderr) == []

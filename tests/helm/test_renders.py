"""Two versions of Helm lint, render and dry-run every chart."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from helm.tools import copies
from tests.helm.cells import CELLS, CHARTS
from tests.helm.render import HELM, NAMESPACE, RELEASE, VERSIONS, helm, rendered, rendered_text, template

cells = pytest.mark.parametrize(("chart", "cell"), CELLS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chart", CHARTS)
def test_strict_lint_finds_nothing(version: str, chart: str) -> None:
    for (of, _), values in CELLS.items():
        if of == chart:
            ended = helm(version, "lint", "--strict", str(HELM / chart), values=values)
            assert ended.returncode == 0, ended.stdout + ended.stderr


@cells
def test_both_versions_render_the_same(chart: str, cell: str) -> None:
    old, new = (rendered(version, chart, cell) for version in VERSIONS)
    assert sorted(map(repr, old)) == sorted(map(repr, new))
    assert old


@pytest.mark.parametrize("version", VERSIONS)
@cells
def test_two_renders_are_equal(version: str, chart: str, cell: str) -> None:
    # Argo CD and Flux render repeatedly, and apply each difference to the cluster.
    assert template(version, chart, CELLS[chart, cell]).stdout == rendered_text(version, chart, cell)


def test_no_template_uses_the_cluster_the_clock_or_random_values() -> None:
    changing = re.compile(
        r"\b(lookup|rand\w+|now|uuidv4|gen\w+|derivePassword|bcrypt|htpasswd|encryptAES)\b"
        r"|\.Release\.(IsInstall|IsUpgrade|Revision)|\.Capabilities"
    )
    for path in HELM.glob("*/templates/*"):
        actions = re.findall(r"\{\{(?!- /\*).*?\}\}", path.read_text(), re.DOTALL)
        assert not [action for action in actions if changing.search(re.sub(r'"[^"]*"', "", action))], path


@cells
def test_object_names_are_unique(chart: str, cell: str) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in rendered("helm-4", chart, cell)]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


@cells
def test_a_dry_run_installs(chart: str, cell: str) -> None:
    # Helm 3 needs a cluster even for this; its `template` runs the same code without one.
    where = (RELEASE, str(HELM / chart), "--namespace", NAMESPACE)
    ended = helm("helm-4", "install", "--dry-run=client", *where, values=CELLS[chart, cell])
    assert ended.returncode == 0, ended.stderr
    assert "MANIFEST:" in ended.stdout


@pytest.mark.parametrize("tool", ["schema", "readme"])
def test_schemas_and_readmes_are_generated_from_the_comments(tool: str) -> None:
    ended = subprocess.run([sys.executable, "-m", f"helm.tools.{tool}", "--check"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_sizes_alerts_and_dashboards_equal_their_sources() -> None:
    assert copies.stale() == []


def test_every_template_file_is_small() -> None:
    for path in HELM.glob("*/templates/*"):
        assert path.name == "_sizing_table.tpl" or len(path.read_text().splitlines()) <= 200, path

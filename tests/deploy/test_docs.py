"""The docs: links resolve, and commands run where possible. test_named_in_docs.py checks the names in them."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.deploy.files import DOCS, ROOT, SERVICES
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S

PAGES = sorted(DOCS.glob("*.md"))
# The README of the project has its own test.
LINKING = [
    *PAGES,
    *(path for folder in ("services", "helm", "training") for path in (ROOT / folder).rglob("README.md")),
]
BLOCK = re.compile(r"^```sh ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ENTRY_POINT = "import sys; from services.cli.__main__ import main; sys.exit(main())"
KINDS = ("stack", "here", "cluster")
# Pages and folders that belong to another part of the project → the folder of that part.
PARTS = {"sizing.md": "services/sizing", "autoscaling.md": "services/scaler", "helm": "helm"}


def is_there(path: Path) -> bool:
    """Return whether the path exists, or belongs to a part that is not in this tree."""
    part = PARTS.get(path.name, PARTS.get(path.relative_to(ROOT).parts[0]))
    return path.exists() or (part is not None and not (ROOT / part).exists())


@dataclass(frozen=True)
class Block:
    """A ```sh block."""

    page: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:60]}"


BLOCKS = [Block(page.name, kind, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text())]


def blocks(kind: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind == kind]


def anchors(page: Path) -> set[str]:
    """Return the page's anchors as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(page.read_text())}


def test_every_block_says_where_it_runs() -> None:
    assert [str(block) for block in BLOCKS if block.kind not in KINDS] == []
    assert {block.kind for block in BLOCKS} == set(KINDS)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert is_there(target.resolve()), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page() -> None:
    named = set(LINK.findall((DOCS / "README.md").read_text()))
    assert {page.name for page in PAGES} - {"README.md"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples_parse(page: Path) -> None:
    for language, text in re.findall(r"^```(python|json|yaml)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            compile(text, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        else:
            {"json": json.loads, "yaml": yaml.safe_load}[language](text)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_commands_are_valid_shell_and_their_files_exist(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    folder = ROOT / "deploy" if block.text.startswith("cd deploy\n") else ROOT
    for path in re.findall(r"(?<![\w/.$-])((?:deploy|helm)/[\w./$-]+|compose[\w.]*\.yaml|example\.env)", block.text):
        for service in SERVICES if "$service" in path else ("",):
            assert is_there(folder / path.replace("$service", service)), path


@pytest.mark.parametrize("block", blocks("stack"), ids=str)
def test_commands_for_a_stack_work(block: Block, stack: Stack) -> None:
    environ = os.environ | {
        "URL": stack.url,
        "KEY": stack.api_key,
        "MODEL": stack.model,
        "METRICS_URL": stack.metrics_url,
    }
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env=environ,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip()


def test_commands_for_a_clone_work_in_order(tmp_path: Path) -> None:
    """Run with `antiphon` where `make setup` puts it, and with each supported Helm on the PATH."""
    helms = ROOT / "tests/tools/helm.sh"
    if not (ROOT / "services/sizing").exists() or not helms.exists():
        pytest.skip("the charts are not in this tree")
    found = subprocess.run([helms], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if not found:
        pytest.skip("helm cannot be had")
    for helm in ("helm-3", "helm-4"):
        clone, tools = tmp_path / helm, tmp_path / helm / ".venv/bin"
        tools.mkdir(parents=True)
        (clone / "helm").symlink_to(ROOT / "helm")
        (tools / "antiphon").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{ENTRY_POINT}" "$@"\n')
        (tools / "antiphon").chmod(0o755)
        # Not the clone's folder, so that only the page's own commands find `antiphon`.
        (tmp_path / f"{helm}-path").mkdir()
        (tmp_path / f"{helm}-path/helm").symlink_to(Path(found) / helm)
        environ = os.environ | {
            "PATH": f"{tmp_path / f'{helm}-path'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}",
        }
        for block in blocks("here"):
            ran = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=clone,
                env=environ,
                capture_output=True,
                text=True,
                timeout=HANGS_AFTER_S,
                check=False,
            )
            assert ran.returncode == 0, f"{helm}: {block}\n{ran.stdout[-2000:]}{ran.stderr}"
            assert ran.stdout.strip()

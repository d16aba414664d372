"""The README leads a newcomer: its links resolve, and its commands are those of the client and of make."""

from __future__ import annotations

import re
import shlex

from tests.deploy.files import ROOT
from tests.deploy.test_docs import LINK, anchors

PAGE = ROOT / "README.md"
TEXT = PAGE.read_text()
BLOCKS = {kind: re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) for kind in ("sh", "python")}
LINES = [shlex.split(line, comments=True) for block in BLOCKS["sh"] for line in block.splitlines()]
# `helm install antiphon …` names a release.
COMMANDS = [
    line[at + 1 :]
    for line in LINES
    for at, word in enumerate(line)
    if word in ("antiphon", ".venv/bin/antiphon") and line[0] != "helm"
]


def test_links_resolve() -> None:
    for link in LINK.findall(TEXT):
        name, _, anchor = link.partition("#")
        target = ROOT / name if name else PAGE
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_command_of_the_client_is_shown() -> None:
    assert {command[0] for command in COMMANDS} >= {"models", "chat", "speak", "transcribe", "caption"}


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", TEXT)) | {
        next(word for word in line[line.index("make") + 1 :] if "=" not in word) for line in LINES if "make" in line
    }
    assert named
    assert named <= targets


def test_the_sample_of_openais_client_is_valid_python() -> None:
    (sample,) = BLOCKS["python"]
    compile(sample, "README.md", "exec")

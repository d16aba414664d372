"""Readers of the files of deploy/."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
IN_COMPOSE = ("gateway", "preprocess", "thinker", "talker")
"""Without the control plane, which has a profile, and the scaler: KEDA, which it speaks with, is a cluster's."""
SERVICES = (*IN_COMPOSE, "scaler", "control")


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile's instructions in order, such as ("COPY", "protos protos"). Continued lines are joined."""

    path: Path
    instructions: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [argument for instruction, argument in self.instructions if instruction == name]

    def last(self, name: str) -> str:
        return self.all(name)[-1]

    @property
    def environ(self) -> dict[str, str]:
        pairs = (word.partition("=") for line in self.all("ENV") for word in shlex.split(line))
        return {name: value for name, _, value in pairs}

    @property
    def entrypoint(self) -> list[str]:
        return json.loads(self.last("ENTRYPOINT"))


def read_dockerfile(service: str) -> Dockerfile:
    path = DEPLOY / f"docker/{service}.Dockerfile"
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    split = (line.partition(" ") for line in whole if line.strip())
    return Dockerfile(path, tuple((name, " ".join(rest.split())) for name, _, rest in split))

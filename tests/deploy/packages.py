"""What an install with some extras brings, and imports that see nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.files import ROOT

IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, sys

class OnlyTheInstalled:
    owners = importlib.metadata.packages_distributions()
    brought = set(sys.argv[2:])

    def find_spec(self, name, path=None, target=None):
        owners = {o.lower().replace("_", "-").replace(".", "-") for o in self.owners.get(name, ())}
        if owners and not owners & self.brought:
            raise ModuleNotFoundError(f"No module named {name!r} in this install", name=name)

sys.meta_path.insert(0, OnlyTheInstalled())
package = importlib.import_module(sys.argv[1])
modules = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in modules:
    importlib.import_module(name)
print(len(modules))
"""


def needs(*extras: str) -> list[str]:
    """Return the requirements of these extras, and of those that they name in turn."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: list[str] = []
    for text in (text for extra in extras for text in known[extra]):
        requirement = Requirement(text)
        found += needs(*requirement.extras) if requirement.name == "antiphon" else [text]
    return found


def closure(names: list[str]) -> set[str]:
    """Return these distributions and all that they depend on, extras included."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        key = f"{canonicalize_name(requirement.name)}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found.add(key)
        for text in distribution(requirement.name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append(needed)
    return {key.partition("[")[0] for key in found}


def import_with_only(requirements: list[str], package: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Import all modules of a package where only the requirements, what they depend on, and `more` can be imported.

    Standard output is the number of modules.
    """
    command = [sys.executable, "-c", IMPORT_ALL, package, *more, *closure(requirements)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

"""Lets PyPI's torchvision, which is built for CUDA, import beside a CPU-only torch.

Its C++ extension cannot load there, and `torchvision/_meta_registrations.py` then fails at import with "operator
torchvision::nms does not exist". transformers and vLLM use only torchvision's Python part (resizing), for which
declaring the two operators' schemas is enough. Where the extension loads, nothing is declared.

Run as a module once after installing (`python -m services.common.torchvision_cpu`): it writes a .pth file into
site-packages, so that the hook reaches every process of the environment, vLLM's spawned workers included.
"""

from __future__ import annotations

import importlib.machinery
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

PTH_NAME = "antiphon_torchvision.pth"
SCHEMAS = tuple(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for op in ("nms", "qnms"))

_declared: list[object] = []  # a torch Library forgets its schemas when it is collected


class TorchvisionFinder(MetaPathFinder):
    """Declares the missing operators just before torchvision is first imported; costs nothing until then."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            declare_missing_operators(Path(spec.origin).parent)
        return spec


def declare_missing_operators(torchvision_dir: Path) -> None:
    """Loads torchvision's extension, or declares the operators' schemas where it can't be loaded."""
    import torch

    try:
        for extension in torchvision_dir.glob("_C*.so"):
            torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _declared.append(library)


def install_hook() -> None:
    """Puts the finder first, once; called by the .pth file at interpreter start."""
    if "torchvision" not in sys.modules and not any(isinstance(f, TorchvisionFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def write_pth(site_packages: Path) -> Path:
    """Writes the .pth file and returns its path; a copy of this module goes beside it, to need no import path."""
    module = site_packages / "antiphon_torchvision_cpu.py"
    module.write_text(Path(__file__).read_text())
    pth = site_packages / PTH_NAME
    pth.write_text("import antiphon_torchvision_cpu; antiphon_torchvision_cpu.install_hook()\n")
    return pth


if __name__ == "__main__":
    sys.stdout.write(f"wrote {write_pth(Path(sysconfig.get_paths()['purelib']))}\n")

"""Loading of weights: each tensor is allocated once, on its device, and filled straight from safetensors files.

A checkpoint stores every expert's matrices apart, 7,680 in the released talker. They are copied into their places in
the fused tensors one by one, so that loading takes no more memory than the weights, and the allocator keeps no small
blocks of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

_NAMES_IN_ERROR = 5


class CheckpointError(Exception):
    """The folder holds no checkpoint that can speak; the message says what is wrong with it."""


class CheckpointFiles:
    """The tensors of a checkpoint, whichever of its files holds them. They are read through the page cache: a tensor
    that is read is a view of its file and takes no memory of its own."""

    def __init__(self, folder: Path) -> None:
        """Raise CheckpointError where the folder holds no safetensors."""
        self._folder = folder
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            self._file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        elif single.is_file():
            with self._open(single.name) as file:
                self._file_of = dict.fromkeys(file.keys(), single.name)
        else:
            raise CheckpointError(f"{folder}: no safetensors")

    def names(self, prefix: str) -> set[str]:
        return {name for name in self._file_of if name.startswith(prefix)}

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield these tensors, file by file. Raise CheckpointError where one is missing."""
        if missing := sorted(set(names) - self._file_of.keys()):
            raise CheckpointError(f"{self._folder}: missing {_listed(missing)}")
        for file_name in sorted({self._file_of[name] for name in names}):
            with self._open(file_name) as file:
                for name in names:
                    if self._file_of[name] == file_name:
                        yield name, self._tensor(file, file_name, name)

    def _open(self, file_name: str) -> Any:
        try:
            return safe_open(self._folder / file_name, "pt")
        except FileNotFoundError as error:
            raise CheckpointError(f"{self._folder}: {file_name} is missing") from error
        except SafetensorError as error:
            raise CheckpointError(f"{self._folder}: {file_name} is no whole safetensors file: {error}") from error

    def _tensor(self, file: Any, file_name: str, name: str) -> Tensor:
        try:
            return file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self._folder}: {file_name}: {error}") from error


def fill(module: nn.Module, files: CheckpointFiles, prefix: str, dtype: torch.dtype, device: torch.device) -> None:
    """Give a module that was built on the meta device its weights, which the checkpoint names `prefix` + their name.

    Names are compared before anything is read. Raise CheckpointError where they or their shapes do not fit.
    """
    given = files.names(prefix)
    expected = module.state_dict()
    required = {name for name, _ in _places(expected.items(), prefix, given)}
    problems = [("missing", required - given), ("unknown", given - required)]
    if told := [f"{what} {_listed(sorted(names))}" for what, names in problems if names]:
        raise CheckpointError(f"{prefix}* does not fit its config: {'; '.join(told)}")
    tensors = {name: torch.empty(meta.shape, dtype=dtype, device=device) for name, meta in expected.items()}
    places = dict(_places(tensors.items(), prefix, given))
    for name, tensor in files.read(places.keys()):
        if tensor.shape != places[name].shape:
            shapes = f"{list(tensor.shape)}, expected {list(places[name].shape)}"
            raise CheckpointError(f"{prefix}* does not fit its config: {name} has the shape {shapes}")
        if (whole := name.removeprefix(prefix)) in tensors and tensor.dtype == dtype and device.type == "cpu":
            # The view of the file, as in transformers: a product's rounding follows where its weights lie in memory.
            places[name] = tensors[whole] = tensor
        else:
            places[name].copy_(tensor)
    module.load_state_dict(tensors, assign=True)
    _fill_computed_buffers(module, device)


def _places(tensors: Iterable[tuple[str, Tensor]], prefix: str, given: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the checkpoint's name of each stored tensor, and the place in the module's tensors that it fills.

    gate_up_proj is [experts, gate rows above up rows, hidden size]; down_proj is [experts, hidden size, rows]. A
    checkpoint that stores a fused tensor whole is taken as it is.
    """
    for name, tensor in tensors:
        stored = prefix + name
        layer, _, part = stored.rpartition(".")
        if not layer.endswith(".experts") or stored in given:
            yield stored, tensor
        elif part == "gate_up_proj":
            for index, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                yield f"{layer}.{index}.gate_proj.weight", gate
                yield f"{layer}.{index}.up_proj.weight", up
        else:
            for index, expert in enumerate(tensor):
                yield f"{layer}.{index}.{part}.weight", expert


def _fill_computed_buffers(module: nn.Module, device: torch.device) -> None:
    """Compute the buffers that no checkpoint stores."""
    for part in module.modules():
        computed = {name: buffer for name, buffer in part.named_buffers(recurse=False) if buffer.is_meta}
        if "inv_freq" in computed:  # a rotary embedding: what its constructor computes
            fresh = type(part)(cast(Any, part).config)
            computed = {name: fresh.get_buffer(name) for name in computed}
        elif "code_offset" in computed:  # where each codebook begins in code2wav's one embedding table
            config = cast(Any, part).config
            offsets = torch.arange(config.num_quantizers).view(1, -1, 1) * config.codebook_size
            computed = {"code_offset": offsets}
        for name, buffer in computed.items():
            part.register_buffer(name, buffer.to(device), persistent=False)


def _listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMES_IN_ERROR} more" if len(names) > _NAMES_IN_ERROR else ""
    return ", ".join(names[:_NAMES_IN_ERROR]) + more

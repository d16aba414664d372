"""Replaces attributes of vLLM. Fails at once where a replacement would have no effect.

tests/thinker/test_vllm_surface.py states the reason for each, and fails when vLLM changes the replaced code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


def replace(owner: object, name: str, value: object, *used_by: Callable[..., Any]) -> Any:
    """Set `owner.name` to `value` and return the old value.

    Raise RuntimeError where `owner` has no such attribute, or where one of vLLM's functions `used_by` does not use it.
    """
    if not hasattr(owner, name):
        raise RuntimeError(f"vLLM's {getattr(owner, '__name__', type(owner).__name__)} has no {name} to replace")
    for function in map(inspect.unwrap, used_by):
        if name not in function.__code__.co_names:
            raise RuntimeError(f"vLLM's {function.__qualname__} does not use {name}, which is replaced for it")
    usual = getattr(owner, name)
    setattr(owner, name, value)
    return usual


@contextmanager
def replaced(owner: object, name: str, value: object, *used_by: Callable[..., Any]) -> Generator[None]:
    """Replace an attribute while the block runs. Raise RuntimeError as `replace` does."""
    usual = replace(owner, name, value, *used_by)
    try:
        yield
    finally:
        setattr(owner, name, usual)

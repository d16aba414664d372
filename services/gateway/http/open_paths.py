"""The paths that need no key."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import compile_path

from services.gateway.http.operation import Operation


class OpenPaths:
    """A container of paths: those of the operations without a key, which may have parameters."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        paths = {each.path for each in operations if not each.needs_key}
        self._exact = frozenset(path for path in paths if "{" not in path)
        self._patterns = [compile_path(path)[0] for path in sorted(paths - self._exact)]

    def __contains__(self, path: object) -> bool:
        return path in self._exact or any(pattern.match(str(path)) for pattern in self._patterns)

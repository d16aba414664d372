"""Runs sections so that a failure, a crash or a hung device in one does not stop the others. Each has a time limit.

The sections run in one child process, one after the other. After one that fails or times out, the rest run in a new
child, because a broken CUDA context ends with its process. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Result = dict[str, Any]
START_S = 120.0
"""The longest start of a child, which imports torch and transformers."""


class WrongError(Exception):
    """A section found a wrong result. Its `figures` go into the report all the same."""

    def __init__(self, message: str, figures: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.figures = dict(figures)


@dataclass(frozen=True)
class Section:
    """A check: `run()` returns its figures, or raises.

    environ is added to the parent's environment; sections with different ones run in different processes.
    """

    name: str
    limit_s: float
    run: Callable[..., Mapping[str, Any]]
    environ: Mapping[str, str] = field(default_factory=dict[str, str])


def run_sections(
    command: Sequence[str], sections: Sequence[Section], total_s: float, tell: Callable[[str], object]
) -> dict[str, Result]:
    """Run the sections in children and return a result for each: {"status": "ok" | "failed" | "timed out" | "not run",
    "seconds", and "figures" or "error"}.

    command starts a child. It gets --child, a file descriptor and the sections' names, and calls serve_child.
    """
    ends_s = time.monotonic() + total_s
    results: dict[str, Result] = {}
    waiting = list(sections)
    while waiting:
        together = [section for section in waiting if section.environ == waiting[0].environ]
        for name, result in _run_child(command, together, ends_s):
            results[name] = result
            tell(f"{name}: {result['status']} after {result['seconds']:.1f} s {result.get('error', '')}".rstrip())
        waiting = [section for section in waiting if section.name not in results]
    return {section.name: results[section.name] for section in sections}


def _run_child(command: Sequence[str], sections: Sequence[Section], ends_s: float) -> Generator[tuple[str, Result]]:
    """Yield results until all sections have one, or one failed and the rest want a new child."""
    if ends_s - time.monotonic() <= 0:
        yield from ((section.name, _result("not run", 0, error="no time was left")) for section in sections)
        return
    reading, writing = os.pipe()
    names = [section.name for section in sections]
    child = subprocess.Popen(
        [*command, "--child", str(writing), *names],
        env=os.environ | dict(sections[0].environ),
        pass_fds=(writing,),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # the compiler's workers end with it, too
    )
    os.close(writing)
    lines = _Lines(reading)
    began_s, start_s = time.monotonic(), START_S
    try:
        for section in sections:
            line = lines.next_before(min(began_s + start_s + section.limit_s, ends_s))
            seconds = time.monotonic() - began_s
            if line is None:
                yield section.name, _result("timed out", seconds, error=f"no result after {seconds:.0f} s")
                return
            if not line:
                how = f"its process ended with status {child.wait()}"
                yield section.name, _result("failed", seconds, error=how)
                return
            result: Result = json.loads(line)
            yield section.name, result
            if result["status"] != "ok":
                return
            began_s, start_s = time.monotonic(), 0.0
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


class _Lines:
    """The lines of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._buffer, self._is_open = descriptor, b"", True

    def next_before(self, deadline_s: float) -> str | None:
        """Return the next line, "" at the end, or None if none comes in time."""
        while b"\n" not in self._buffer and self._is_open:
            ready, _, _ = select.select([self._descriptor], [], [], max(deadline_s - time.monotonic(), 0))
            if not ready:
                return None
            read = os.read(self._descriptor, 1 << 16)
            self._is_open = bool(read)
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


def serve_child(descriptor: int, sections: Iterable[Section], *arguments: Any) -> None:
    """Run the sections in this process, up to the first that fails."""
    with os.fdopen(descriptor, "w", buffering=1) as results:
        for section in sections:
            began_s = time.monotonic()
            try:
                figures = dict(section.run(*arguments))
            except WrongError as error:
                result = _result("failed", time.monotonic() - began_s, error=str(error), figures=error.figures)
            except Exception as error:  # whatever it is, the other sections must still run
                traceback.print_exc()
                result = _result("failed", time.monotonic() - began_s, error=f"{type(error).__name__}: {error}")
            else:
                result = _result("ok", time.monotonic() - began_s, figures=figures)
            results.write(json.dumps(result) + "\n")
            if result["status"] != "ok":
                return


def _result(status: str, seconds: float, **more: Any) -> Result:
    return {"status": status, "seconds": round(seconds, 2), **more}

"""What a person sees: the answer on standard output, all else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn


def printable(text: str) -> str:
    """Return the text without what would command a terminal: a model may say anything."""
    return "".join(character if character.isprintable() or character in "\n\t" else "·" for character in text)


class Screen:
    """Shows answers as they stream. Standard output gets the text alone where it is no terminal."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._waiting = self._err.status("waiting for the answer")
        self._ends_line = True

    @property
    def is_terminal(self) -> bool:
        return self._out.is_terminal

    @contextmanager
    def answer(self) -> Generator[None]:
        """Show that an answer is waited for, until its first text; leave the cursor at the start of a line."""
        self._ends_line = True
        if self._err.is_terminal:
            self._waiting.start()
        try:
            yield
        finally:
            self._waiting.stop()
            if not self._ends_line:
                self._write("\n")

    def text(self, text: str) -> None:
        """Show more of the answer."""
        self._write(text)

    def reasoning(self, text: str) -> None:
        """Show more of the chain of thought, to a person alone."""
        if self.is_terminal:
            self._write(text, style="dim")

    def paragraph(self) -> None:
        """End the chain of thought."""
        if self.is_terminal:
            self._write("\n" if self._ends_line else "\n\n")

    def remark(self, text: str) -> None:
        """Say something beside the answer, to a person alone."""
        if self._err.is_terminal:
            self._err.out(printable(text), style="dim")

    def complain(self, text: str) -> None:
        """Say what went wrong."""
        sys.stderr.write(printable(text) + "\n")

    def progress(self) -> Progress:
        """Return bars for uploads, which only a terminal shows."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
        return Progress(*columns, console=self._err, transient=True, disable=not self._err.is_terminal)

    def listening(self) -> Progress:
        """Return bars for seconds of recordings, which only a terminal shows, where it does not show the text."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
        )
        hidden = not self._err.is_terminal or self.is_terminal
        return Progress(*columns, console=self._err, transient=True, disable=hidden)

    def _write(self, text: str, style: str | None = None) -> None:
        if not text:
            return
        self._waiting.stop()
        self._ends_line = text.endswith("\n")
        if self.is_terminal:
            self._out.out(printable(text), style=style, end="")
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

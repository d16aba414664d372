"""Reads checksums as `sha256sum` writes them."""

from __future__ import annotations

import re

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


class WeightsRefusedError(Exception):
    """The download was refused. The message names the file or the value, and what is wrong with it."""


def read_checksums(text: str) -> dict[str, str]:
    """Return {file: sha256 in lower case}. Raise WeightsRefusedError naming a line that is not a checksum."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise WeightsRefusedError(f'checksums: "{line.strip()}" is not "<sha256>  <file>"')
        found[match[2].removeprefix("./")] = match[1].lower()
    return found

"""Checksums as `sha256sum` writes them."""

from __future__ import annotations

import re

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


class WeightsRefusedError(Exception):
    """The checkpoint cannot be had as it should be; the message names the file, or the value, and what is wrong."""


def read_checksums(text: str) -> dict[str, str]:
    """File → its sha256, in lower case. Raises WeightsRefusedError naming a line that is none."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise WeightsRefusedError(f'checksums: "{line.strip()}" is not "<sha256>  <file>"')
        found[match[2].removeprefix("./")] = match[1].lower()
    return found

"""The public part of a key: what it begins with, and is found by. It is no secret."""

from __future__ import annotations

import re

API_KEY = "ap"
ADMIN_KEY = "apadm"
PREFIX_CHARS = 10
_OURS = re.compile(rf"((?:{API_KEY}|{ADMIN_KEY})_[a-z2-7]{{{PREFIX_CHARS}}})_.{{20,}}")


def public_part(key: str) -> str:
    """Return the prefix of a key in our form; "" = something else, which may be a password and is not to be shown."""
    found = _OURS.fullmatch(key)
    return found[1] if found else ""

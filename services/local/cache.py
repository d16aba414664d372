"""Where the local stack keeps what it makes or fetches once, and what lasts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """ANTIPHON_CACHE, else antiphon under XDG_CACHE_HOME, else ~/.cache/antiphon."""
    if own := environ.get("ANTIPHON_CACHE"):
        return Path(own)
    if xdg := environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "antiphon"
    return Path.home() / ".cache" / "antiphon"


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """antiphon/local under XDG_DATA_HOME, else ~/.local/share/antiphon/local."""
    base = Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "antiphon" / "local"

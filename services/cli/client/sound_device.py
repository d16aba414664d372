"""The package sounddevice, where it and its library of the system are there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from services.cli.client.errors import UsageError


def load_sounddevice(cannot: Callable[[str], UsageError]) -> Any:
    """Return the package. Raise what `cannot` makes of the reason why it is not there."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise cannot("the package sounddevice is not installed: pip install 'antiphon[player]'") from None
    except OSError:  # the package is there, and looks for a library of the system
        raise cannot("PortAudio is not installed (Debian: apt-get install libportaudio2)") from None

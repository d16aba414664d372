"""Checks the user's settings of services before anything starts. Errors quote them as the user wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from services.local.errors import WrongOptionError

TIMEOUT_S = 60.0

ELSEWHERE = {
    "model": "MODEL=<folder or hub name>",
    "redis_url": "REDIS_URL=<url> in the environment",
    "redis_username": "REDIS_USERNAME=<name> in the environment",
    "redis_password": "REDIS_PASSWORD=<password> in the environment",
    "api_key": "API_KEY=<key> in the environment",
    "http_port": "PORT=<number>",
}
"""Settings that the stack itself must know, and how it is told."""
OWN = frozenset({"ready_file"})

UNCHECKED = {"redis_url": "unix:///unused", "model": "unused"}
"""What every service needs, in the place of what the stack will give it."""


def check_settings(
    pairs: Sequence[str], settings: Mapping[str, Mapping[str, str]], environ: Mapping[str, str], api_key: str = ""
) -> None:
    """Check the settings with each service's own settings class, in another process: this one imports no service.

    `pairs` are as the user wrote them; `settings` are the same by service. Raise WrongOptionError with a line for each
    wrong one.
    """
    if not pairs:
        return
    lines = [line for pair in pairs if (line := _not_here(pair))]
    if not lines:
        lines = [_line(pairs, problem) for problem in _problems(settings, environ, api_key)]
    if lines:
        raise WrongOptionError("\n".join(dict.fromkeys(lines)))


def gateway_key(api_key: str) -> dict[str, str]:
    """Return the settings by which the gateway asks for this key; without one, it serves everybody."""
    return {"api_key": api_key} if api_key else {"allow_anonymous": "true"}


def _not_here(pair: str) -> str:
    name = pair.partition("=")[0].rpartition(".")[2].lower()
    if name in ELSEWHERE:
        return f"{name}: this stack takes it as {ELSEWHERE[name]}, not among its services' settings"
    return f"{pair}: the stack sets {name} itself" if name in OWN else ""


def _problems(
    settings: Mapping[str, Mapping[str, str]], environ: Mapping[str, str], api_key: str
) -> list[dict[str, str]]:
    gateway = {"redis_url": UNCHECKED["redis_url"], **gateway_key(api_key)}
    given = {name: {**(gateway if name == "gateway" else UNCHECKED), **own} for name, own in settings.items()}
    checked = subprocess.run(
        [sys.executable, "-m", "services.common.settings_check"],
        input=json.dumps(given),
        env=dict(environ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if checked.returncode:
        raise WrongOptionError(f"the settings could not be checked:\n{checked.stderr.strip()}")
    return json.loads(checked.stdout)


def _line(pairs: Sequence[str], problem: Mapping[str, str]) -> str:
    """Name the pair as it was written; the last one counts where several give one setting."""
    service, setting = problem["service"], problem["setting"]
    written = [pair for pair in pairs if pair.partition("=")[0].lower() in (f"{service}.{setting}", setting)]
    if not written:
        return f"{service}: {problem['problem']}"
    for_all = "." not in written[-1].partition("=")[0]
    whose = f"{service}: " if for_all else ""
    return f"{written[-1]}: {whose}{problem['problem']}"

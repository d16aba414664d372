"""Downloads files from a hub into a folder. A file gets its name only after its sha256 was checked.

Incomplete files are in `<target>/.antiphon-partial/<sha256>`, named by content, and the next run resumes them. A file
that is already there and correct is left alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import httpx

from services.weights.checksums import WeightsRefusedError
from services.weights.modelscope import RemoteFile

logger = logging.getLogger(__name__)

PARTIAL = ".antiphon-partial"
_TRIES = 6
"""Consecutive requests without a new byte before a file fails."""


def with_checksums(files: Sequence[RemoteFile], own: Mapping[str, str]) -> list[tuple[RemoteFile, str]]:
    """Return each file with its expected sha256: the hub's, or the one in `own`.

    Raise WeightsRefusedError where the two differ, where a file has neither, or where `own` names a file that the hub
    does not have.
    """
    paths = {file.path for file in files}
    for path in own:
        if path not in paths:
            raise WeightsRefusedError(f"checksums: {path} is not in the repository")
    found: list[tuple[RemoteFile, str]] = []
    for file in files:
        wanted = own.get(file.path, file.sha256)
        if not wanted:
            raise WeightsRefusedError(f"{file.path}: the hub has no sha256 for it; give it in the checksums")
        if file.sha256 and file.sha256 != wanted:
            raise WeightsRefusedError(
                f"{file.path}: the sha256 is {wanted} in the checksums and {file.sha256} on the hub"
            )
        found.append((file, wanted))
    return found


def download(
    client: httpx.Client,
    files: Sequence[tuple[RemoteFile, str]],
    target: Path,
    *,
    parallel: int = 4,
    pause_s: float = 1.0,
) -> None:
    """Download all `files`, `parallel` at a time. `pause_s` is the wait after a failure; it doubles with each in a row.

    Raise WeightsRefusedError naming a file that fails to download, or has another content.
    """
    partial = target / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    places: dict[str, list[RemoteFile]] = {}  # files with the same content are downloaded once
    for file, sha256 in files:
        places.setdefault(sha256, []).append(file)
    with ThreadPoolExecutor(parallel, thread_name_prefix="weights") as pool:
        work = [
            pool.submit(_download_content, client, alike, sha256, target, partial / sha256, pause_s)
            for sha256, alike in places.items()
        ]
        done, _ = wait(work, return_when=FIRST_EXCEPTION)
        failed = [error for one in done if (error := one.exception()) is not None]
        if failed:
            pool.shutdown(wait=False, cancel_futures=True)
            raise failed[0]
    partial.rmdir()


def _download_content(
    client: httpx.Client, alike: Sequence[RemoteFile], sha256: str, target: Path, so_far: Path, pause_s: float
) -> None:
    """Download one content and store it under the names of all files that have it."""
    missing = [file for file in alike if not _is_there(target / file.path, file, sha256)]
    if not missing:
        return
    file = missing[0]
    resumed = so_far.exists()
    _fetch(client, file, so_far, pause_s)
    if resumed and _sha256(so_far) != sha256:  # an earlier run may have left a broken file: start again
        so_far.unlink()
        _fetch(client, file, so_far, pause_s)
    if (got := _sha256(so_far)) != sha256:
        so_far.unlink()
        raise WeightsRefusedError(f"{file.path}: its sha256 is {got}, not the expected {sha256}")
    for one in missing:
        (target / one.path).parent.mkdir(parents=True, exist_ok=True)
    for one in missing[1:]:
        shutil.copyfile(so_far, target / one.path)
    so_far.replace(target / file.path)
    logger.info("%s: %d bytes, checked", file.path, file.size_bytes)


def _is_there(path: Path, file: RemoteFile, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and _sha256(path) == sha256


def _fetch(client: httpx.Client, file: RemoteFile, so_far: Path, pause_s: float) -> None:
    """Request the missing bytes until `so_far` has all of them. Raise WeightsRefusedError."""
    tries, have = 0, _size(so_far)
    while have != file.size_bytes or not so_far.exists():
        try:
            why = _fetch_once(client, file, so_far)
        except OSError as error:  # a full volume
            raise WeightsRefusedError(f"{file.path}: {error.strerror or error}") from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
        now = _size(so_far)
        tries, have = (1 if now > have else tries + 1), now
        if have == file.size_bytes:
            return
        if tries >= _TRIES:
            raise WeightsRefusedError(f"{file.path}: stopped after {have} of {file.size_bytes} bytes: {why}")
        logger.warning("%s: %d of %d bytes, %s; trying again", file.path, have, file.size_bytes, why)
        time.sleep(pause_s * 2 ** (tries - 1))


def _fetch_once(client: httpx.Client, file: RemoteFile, so_far: Path) -> str:
    """Send one request for the missing bytes. Return why it ended. Raise httpx.HTTPError, WeightsRefusedError."""
    have = _size(so_far)
    if have > file.size_bytes:
        so_far.unlink()
        have = 0
    headers = {"range": f"bytes={have}-"} if have else {}
    with client.stream("GET", file.url, headers=headers | {"accept-encoding": "identity"}) as answer:
        if answer.status_code == 416:
            so_far.unlink()
            return "the hub refused the range"
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            return f"status {answer.status_code}"
        if answer.status_code not in (200, 206):
            raise WeightsRefusedError(f"{file.path}: status {answer.status_code}")
        goes_on = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not goes_on:
            raise WeightsRefusedError(f"{file.path}: the hub sent another range than the requested bytes={have}-")
        with so_far.open("ab" if goes_on else "wb") as out:
            for chunk in answer.iter_bytes():  # no chunk size: a broken connection would lose a half-filled chunk
                out.write(chunk)
                if out.tell() > file.size_bytes:
                    break
            out.flush()
            os.fsync(out.fileno())
    if _size(so_far) > file.size_bytes:
        so_far.unlink()
        raise WeightsRefusedError(f"{file.path}: the hub sent more than the {file.size_bytes} bytes that it lists")
    return "the transfer ended"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

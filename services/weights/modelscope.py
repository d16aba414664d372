"""Lists the files of a repository on ModelScope's hub.

It uses the two endpoints of ModelScope's own client (modelscope_hub, `_legacy_api.py`). `…/repo/files` lists the files
with sizes and sha256. `…/repo?FilePath=` returns one file, supports ranges, and mostly redirects to a store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from services.weights.checksums import WeightsRefusedError

ENDPOINT = "https://www.modelscope.cn"
_TIMEOUT = httpx.Timeout(60, connect=20)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    path: str
    """Relative to the repository, with "/"; never outside of it."""
    size_bytes: int
    sha256: str
    """Lower case; "" where the hub has none."""
    url: str


def open_hub(token: str, endpoint: str) -> httpx.Client:
    """Return a client for one hub. It sends the token only to the hub's host, also after a redirect."""
    client = httpx.Client(timeout=_TIMEOUT, follow_redirects=True, headers={"user-agent": "antiphon-weights"})
    if token:
        client.headers["authorization"] = f"Bearer {token}"
        client.cookies.set("m_session_id", token, domain=urlsplit(endpoint).hostname or "")
    return client


def list_files(client: httpx.Client, endpoint: str, repository: str, revision: str) -> list[RemoteFile]:
    """List all files of `repository` ("owner/name") at `revision`.

    Raise WeightsRefusedError where the hub has no files or its answer is invalid, httpx.HTTPError where it cannot be
    reached.
    """
    base = f"{endpoint.rstrip('/')}/api/v1/models/{quote(repository)}/repo"
    answer = client.get(f"{base}/files", params={"Revision": revision, "Recursive": "True"})
    if answer.status_code >= 500 or answer.status_code == 429:
        answer.raise_for_status()
    try:
        body = answer.json()
        failed = answer.status_code != 200 or body.get("Code", 200) != 200
        entries: Iterable[Any] = () if failed else body["Data"]["Files"]
        files = [_file(entry, base, revision) for entry in entries if entry.get("Type") != "tree"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsRefusedError(
            f"{endpoint}: the hub answered with status {answer.status_code} and no list of files"
        ) from None
    if failed or not files:
        why = str(body.get("Message") or f"status {answer.status_code}")
        raise WeightsRefusedError(f"{repository} at {revision}: {why if failed else 'no files'}")
    return files


def _file(entry: Any, base: str, revision: str) -> RemoteFile:
    path = str(entry["Path"])
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or not parts or ".." in parts or "\0" in path:
        raise WeightsRefusedError(f'the repository lists a file outside of its folder: "{path}"')
    sha256 = str(entry.get("Sha256") or "").lower()
    url = f"{base}?Revision={quote(revision, safe='')}&FilePath={quote(path, safe='')}"
    return RemoteFile(path, int(entry["Size"]), sha256 if _SHA256.fullmatch(sha256) else "", url)

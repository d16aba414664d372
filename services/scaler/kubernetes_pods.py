"""Annotates pods through the Kubernetes API, as the service account that the kubelet mounted into this pod."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from services.common.errors import AntiphonError, Forbidden, NotFound, Unavailable

TIMEOUT_S = 5.0
_HEADERS = {
    "Content-Type": "application/merge-patch+json",
    # The answer is the whole pod otherwise.
    "Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "User-Agent": "antiphon-scaler",
}
_LONGEST_REASON = 300


class KubernetesPods:
    """The pods of one namespace. `account` is a folder with `token` and `ca.crt`, which the kubelet renews.

    Environment variables for proxies are ignored, as the API server is inside the cluster.
    """

    def __init__(self, url: str, namespace: str, account: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/namespaces/{quote(namespace, safe='')}/pods"
        self._account = account
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def annotate(self, pod: str, name: str, value: str) -> None:
        """Set an annotation. Raise NotFound (no such pod), Forbidden, or Unavailable for any other failure."""
        body = json.dumps({"metadata": {"annotations": {name: value}}})
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._open().patch(
                    f"{self._url}/{quote(pod, safe='')}",
                    params={"fieldManager": "antiphon-scaler"},
                    content=body,
                    headers={"Authorization": f"Bearer {self._token()}"},
                )
        except (httpx.HTTPError, OSError) as error:  # an unreadable file is an OSError, and so is a wrong certificate
            await self._close()
            raise Unavailable(f"the Kubernetes API does not answer: {error!r}") from error
        if not answer.is_success:
            raise _error(answer)

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            trusted = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            self._client = httpx.AsyncClient(verify=trusted, timeout=self._timeout_s, headers=_HEADERS, trust_env=False)
        return self._client

    def _token(self) -> str:
        return (self._account / "token").read_text().strip()

    async def _close(self) -> None:
        """Close the connection. The next call reads the certificate authority anew."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _error(answer: httpx.Response) -> AntiphonError:
    message = f"{answer.status_code} {_reason(answer)}"
    if answer.status_code == 404:
        return NotFound(message)
    if answer.status_code in (401, 403):
        return Forbidden(message)
    retry_after_s: float | None = None
    with suppress(KeyError, ValueError):
        retry_after_s = float(answer.headers["retry-after"])
    return Unavailable(message, retry_after_s=retry_after_s)


def _reason(answer: httpx.Response) -> str:
    """Return the message of a Status object, else the answer's own text."""
    try:
        status: Any = answer.json()
        return str(status["message"])[:_LONGEST_REASON]
    except (ValueError, KeyError, TypeError):
        return answer.text[:_LONGEST_REASON]

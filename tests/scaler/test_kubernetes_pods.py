"""The client of the Kubernetes API, against a server over TLS."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from services.common.errors import AntiphonError, Forbidden, NotFound, Unavailable
from services.scaler.kubernetes_pods import KubernetesPods
from tests.fixtures.api_server import ANNOTATION, Patch, PodServer

NAMESPACE = "speech"


@pytest.fixture
def server(tmp_path: Path) -> Generator[PodServer]:
    with PodServer(tmp_path, NAMESPACE).running() as server:
        yield server


@pytest.fixture
async def pods(server: PodServer) -> AsyncGenerator[KubernetesPods]:
    async with KubernetesPods(server.url, NAMESPACE, server.account) as pods:
        yield pods


async def failure(pods: KubernetesPods, pod: str = "pod-1") -> AntiphonError:
    with pytest.raises(AntiphonError) as failed:
        await pods.annotate(pod, ANNOTATION, "7")
    return failed.value


async def test_only_the_annotation_is_patched(server: PodServer, pods: KubernetesPods) -> None:
    await pods.annotate("rel-thinker-7d9f-abcde", ANNOTATION, "120")
    assert server.patches == [Patch("token-1", "rel-thinker-7d9f-abcde", "120")]
    assert server.costs == {"rel-thinker-7d9f-abcde": "120"}


async def test_a_renewed_token_is_used(server: PodServer, pods: KubernetesPods) -> None:
    await pods.annotate("pod-1", ANNOTATION, "1")
    server.tokens = {"token-2"}
    assert isinstance(await failure(pods), Forbidden)
    server.give_token("token-2")
    await pods.annotate("pod-1", ANNOTATION, "2")
    assert server.costs == {"pod-1": "2"}


async def test_a_pods_name_cannot_name_another_resource(server: PodServer, pods: KubernetesPods) -> None:
    await pods.annotate("../secrets/key?x=1#", ANNOTATION, "1")
    assert server.patched == ["../secrets/key?x=1#"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (401, Forbidden), (403, Forbidden)]
    + [(status, Unavailable) for status in (302, 409, 422, 429, 500, 503)],
)
async def test_each_status_is_told_apart(
    server: PodServer, pods: KubernetesPods, status: int, kind: type[AntiphonError]
) -> None:
    server.failing[""] = status
    error = await failure(pods)
    assert type(error) is kind
    assert error.message == f'{status} pods "pod-1": {status}'
    assert error.retry_after_s is None
    del server.failing[""]
    await pods.annotate("pod-1", ANNOTATION, "1")


async def test_the_servers_retry_after_is_kept(server: PodServer, pods: KubernetesPods) -> None:
    server.failing[""], server.retry_after = 429, "17"
    assert (await failure(pods)).retry_after_s == 17
    server.retry_after = "Fri, 31 Dec 1999 23:59:59 GMT"
    assert (await failure(pods)).retry_after_s is None


async def test_a_server_that_does_not_answer_is_given_up(server: PodServer) -> None:
    server.hanging.add("pod-1")
    async with KubernetesPods(server.url, NAMESPACE, server.account, timeout_s=0.3) as pods:
        error = await failure(pods)
        assert isinstance(error, Unavailable)
        assert "TimeoutError" in error.message
        server.go_on.set()
    async with KubernetesPods(server.url, NAMESPACE, server.account) as pods:
        await pods.annotate("pod-1", ANNOTATION, "1")


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    server = PodServer(tmp_path, NAMESPACE)
    server.server_close()
    async with KubernetesPods(server.url, NAMESPACE, server.account) as pods:
        assert isinstance(await failure(pods), Unavailable)


async def test_another_server_is_not_trusted_and_never_gets_the_token(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (
        PodServer(tmp_path, NAMESPACE).running() as real,
        PodServer(tmp_path / "other", NAMESPACE).running() as other,
    ):
        async with KubernetesPods(other.url, NAMESPACE, real.account) as pods:
            error = await failure(pods)
        assert isinstance(error, Unavailable)
        assert "CERTIFICATE_VERIFY_FAILED" in error.message
        assert other.patches == []


async def test_a_renewed_authority_is_trusted(tmp_path: Path) -> None:
    first = PodServer(tmp_path, NAMESPACE)
    async with KubernetesPods(first.url, NAMESPACE, tmp_path) as pods:
        with first.running():
            await pods.annotate("pod-1", ANNOTATION, "1")
        assert isinstance(await failure(pods), Unavailable)
        with PodServer(tmp_path, NAMESPACE, first.server_port).running() as second:  # it writes a new ca.crt
            await pods.annotate("pod-1", ANNOTATION, "2")
        assert second.costs == {"pod-1": "2"}


@pytest.mark.parametrize("name", ["token", "ca.crt"])
async def test_a_missing_file_of_the_account_is_named(server: PodServer, pods: KubernetesPods, name: str) -> None:
    (server.account / name).unlink()
    error = await failure(pods)
    assert isinstance(error, Unavailable)
    assert "FileNotFoundError" in error.message


async def test_proxies_of_the_environment_are_ignored(
    server: PodServer, pods: KubernetesPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    await pods.annotate("pod-1", ANNOTATION, "1")
    assert server.costs == {"pod-1": "1"}

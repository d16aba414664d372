"""Downloads from ModelScope over real HTTP: complete, verified and resumable."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from services.weights.__main__ import main
from services.weights.checksums import WeightsRefusedError, read_checksums
from services.weights.download import PARTIAL, download, with_checksums
from services.weights.modelscope import list_files, open_hub
from tests.weights.hub import REPOSITORY, Hub, running

CONTENT = random.Random(0).randbytes(3_000_000)
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": CONTENT,
    "folder/a name & more.txt": b"text",
    "empty": b"",
    "copy.json": b"{}",
}
BIG = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub() -> Generator[Hub]:
    with running(Hub(dict(FILES))) as served:
        yield served


def fetch(hub: Hub, target: Path, own: dict[str, str] | None = None, token: str = "") -> None:
    with open_hub(token, hub.endpoint) as client:
        files = with_checksums(list_files(client, hub.endpoint, REPOSITORY, "master"), own or {})
        download(client, files, target, pause_s=0.001)


def contents(target: Path) -> dict[str, bytes]:
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def leave_partial(target: Path, content: bytes) -> Path:
    path = target / PARTIAL / sha256(CONTENT)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_all_files_are_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path)
    assert contents(tmp_path) == FILES
    assert len(hub.asked) == len(FILES) - 1, "two files of one content come once"
    hub.asked.clear()
    fetch(hub, tmp_path)
    assert hub.asked == []
    assert not (tmp_path / PARTIAL).exists()


def test_an_interrupted_transfer_resumes(hub: Hub, tmp_path: Path) -> None:
    hub.files = {BIG: CONTENT}
    hub.cut_after = [1_000_000, 500_000, 1]
    fetch(hub, tmp_path)
    assert contents(tmp_path) == {BIG: CONTENT}
    asked = [range_ for _, range_ in hub.asked]
    assert asked[0] == ""
    assert len(asked) == 4
    starts = [int(range_.removeprefix("bytes=").removesuffix("-")) for range_ in asked[1:]]
    assert starts == sorted(starts)
    assert starts[0] > 0


def test_partial_files_of_an_earlier_run_are_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.files = {BIG: CONTENT}
    leave_partial(tmp_path, CONTENT[:2_000_000])
    fetch(hub, tmp_path)
    assert hub.asked == [(BIG, "bytes=2000000-")]
    assert contents(tmp_path) == {BIG: CONTENT}


@pytest.mark.parametrize("left", [b"x" * 2_000_000, b"x" * len(CONTENT), CONTENT + b"more"])
def test_a_corrupt_partial_file_is_downloaded_again(hub: Hub, tmp_path: Path, left: bytes) -> None:
    hub.files = {BIG: CONTENT}
    leave_partial(tmp_path, left)
    fetch(hub, tmp_path)
    assert contents(tmp_path) == {BIG: CONTENT}


def test_a_hub_without_ranges_restarts_the_file(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.no_ranges = {BIG: CONTENT}, True
    leave_partial(tmp_path, CONTENT[:7])
    fetch(hub, tmp_path)
    assert contents(tmp_path) == {BIG: CONTENT}


def test_a_wrong_range_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.wrong_ranges = {BIG: CONTENT}, True
    leave_partial(tmp_path, CONTENT[:7])
    with pytest.raises(WeightsRefusedError, match=f"{BIG}: the hub sent another range than the requested bytes=7-"):
        fetch(hub, tmp_path)


def test_a_wrong_checksum_is_refused_by_name_and_the_file_deleted(hub: Hub, tmp_path: Path) -> None:
    hub.sums[BIG] = sha256(b"other")
    with pytest.raises(
        WeightsRefusedError, match=f"{BIG}: its sha256 is {sha256(CONTENT)}, not the expected {sha256(b'other')}"
    ):
        fetch(hub, tmp_path)
    assert not (tmp_path / BIG).exists()
    assert not list((tmp_path / PARTIAL).iterdir())
    hub.sums.clear()
    fetch(hub, tmp_path)
    assert contents(tmp_path) == FILES


def test_an_existing_file_with_a_wrong_checksum_is_replaced(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"[]")
    fetch(hub, tmp_path)
    assert contents(tmp_path) == FILES


def test_the_users_checksums_apply_beside_the_hubs(hub: Hub, tmp_path: Path) -> None:
    fetch(hub, tmp_path, {"config.json": sha256(b"{}")})
    with pytest.raises(WeightsRefusedError, match=r"config\.json: the sha256 is "):
        fetch(hub, tmp_path, {"config.json": sha256(b"[]")})
    with pytest.raises(WeightsRefusedError, match=r"gone\.json is not in the repository"):
        fetch(hub, tmp_path, {"gone.json": sha256(b"{}")})


def test_a_file_needs_a_checksum(hub: Hub, tmp_path: Path) -> None:
    hub.sums["config.json"] = ""
    with pytest.raises(WeightsRefusedError, match=r"config\.json: the hub has no sha256"):
        fetch(hub, tmp_path)
    assert hub.asked == []
    fetch(hub, tmp_path, {"config.json": sha256(b"{}")})
    assert contents(tmp_path) == FILES


def test_a_busy_hub_is_retried_a_bounded_number_of_times(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.statuses = {BIG: CONTENT}, [503, 429, 500]
    fetch(hub, tmp_path)
    assert contents(tmp_path) == {BIG: CONTENT}
    (tmp_path / BIG).unlink()
    hub.statuses = [503] * 100
    with pytest.raises(WeightsRefusedError, match=f"{BIG}: stopped after 0 of {len(CONTENT)} bytes: status 503"):
        fetch(hub, tmp_path)


def test_a_forbidden_file_is_not_retried(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.statuses = {BIG: CONTENT}, [403]
    with pytest.raises(WeightsRefusedError, match=f"{BIG}: status 403"):
        fetch(hub, tmp_path)
    assert len(hub.asked) == 1


def test_more_bytes_than_announced_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.extra = {BIG: CONTENT}, b"!"
    with pytest.raises(WeightsRefusedError, match=f"{BIG}: the hub sent more than the {len(CONTENT)} bytes"):
        fetch(hub, tmp_path)


def test_the_token_goes_to_the_hub_and_not_to_its_store(hub: Hub, tmp_path: Path) -> None:
    hub.token, hub.redirects = "s3cret", True
    with pytest.raises(WeightsRefusedError, match=f"{REPOSITORY} at master: login first"):
        fetch(hub, tmp_path)
    fetch(hub, tmp_path, token="s3cret")
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside", "a\\b"])
def test_a_path_outside_the_folder_is_refused(hub: Hub, tmp_path: Path, path: str) -> None:
    hub.files = {path: b"x"}
    with pytest.raises(WeightsRefusedError, match="outside of its folder"):
        fetch(hub, tmp_path / "target")
    assert not (tmp_path / "outside").exists()


def test_a_hub_with_a_malformed_answer_is_named(tmp_path: Path) -> None:
    with running(Hub({})) as hub, open_hub("", hub.endpoint) as client:
        with pytest.raises(WeightsRefusedError, match="no files"):
            list_files(client, hub.endpoint, REPOSITORY, "master")
        with pytest.raises(WeightsRefusedError, match="no revision v9"):
            list_files(client, hub.endpoint, REPOSITORY, "v9")
        with pytest.raises(WeightsRefusedError, match="Qwen/Other at master: record not found"):
            list_files(client, hub.endpoint, "Qwen/Other", "master")
        with pytest.raises(WeightsRefusedError, match="no list of files"):
            list_files(client, f"{hub.endpoint}/page", REPOSITORY, "master")


def test_the_command_reports_refusals(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{sha256(b'{}')}  config.json\n")
    target = tmp_path / "target"
    asked = [REPOSITORY, "--target", str(target), "--endpoint", hub.endpoint, "--checksums", str(sums)]
    assert main(asked) == 0
    assert contents(target) == FILES
    sums.write_text(f"{sha256(b'[]')}  config.json\n")
    assert main(asked) == 1
    assert "config.json: the sha256 is " in capsys.readouterr().err
    sums.write_text("config.json\n")
    assert main(asked) == 1
    assert 'checksums: "config.json" is not' in capsys.readouterr().err
    assert main([REPOSITORY, "--target", str(target), "--endpoint", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9: " in capsys.readouterr().err


def test_checksums_are_read_as_sha256sum_writes_them() -> None:
    one = "A" * 64
    assert read_checksums(f"{one}  ./a b\n\n{'0' * 64} *c\n") == {"a b": one.lower(), "c": "0" * 64}


def test_all_threads_end_with_a_refusal(hub: Hub, tmp_path: Path) -> None:
    hub.sums[BIG] = sha256(b"other")
    with pytest.raises(WeightsRefusedError):
        fetch(hub, tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("weights")]


def test_a_silent_hub_times_out() -> None:
    with open_hub("", "http://127.0.0.1") as client:
        assert client.timeout == httpx.Timeout(60, connect=20)

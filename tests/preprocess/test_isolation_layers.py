"""Each layer of isolation by itself: what it claims is refused though no other layer is there.

Without any layer every escape gets through, so that no attempt fails for a reason of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from functools import cache
from typing import Any

import pytest

from services.preprocess.decoding.isolation.layers import Layer
from tests.preprocess.taken_over.escapes import ESCAPES
from tests.preprocess.taken_over.world import POD, ROOT, outside_world, running_victim

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="plays services of other users, so it must be root")
ALONE = "tests.preprocess.taken_over.alone"
NONE = frozenset[Layer]()

_FILES = {"read_file", "write_file", "list_files"}
_PROCESSES = {"read_memory", "trace", "kill"}
_LANDLOCK = {
    *_FILES, *_PROCESSES, "read_environment", "kill_every_process_in_sight", "run_program", "connect_tcp",
    "connect_abstract",
}  # fmt: skip
_SECCOMP = set(ESCAPES) - {"take_memory", "change_shared_files"}
_RLIMITS = {"take_memory", "fill_memory_by_files"}
CLAIMS: dict[tuple[int, frozenset[Layer]], set[str]] = {
    (ROOT, frozenset({Layer.USER})): {*_PROCESSES, "read_environment", "read_file", "write_file"},
    (ROOT, frozenset({Layer.PID_NAMESPACE})): _PROCESSES,
    (ROOT, frozenset({Layer.NETWORK_NAMESPACE})): {"connect_tcp", "send_udp", "connect_abstract"},
    (ROOT, frozenset({Layer.IPC_NAMESPACE})): {"attach_shared_memory"},
    (ROOT, frozenset({Layer.MOUNT_NAMESPACE})): {*_FILES, "read_environment", "connect_unix", "run_program"},
    (ROOT, frozenset({Layer.LANDLOCK})): _LANDLOCK,
    (ROOT, frozenset({Layer.SECCOMP})): _SECCOMP,
    (ROOT, frozenset({Layer.RLIMITS})): _RLIMITS,
    (POD, frozenset({Layer.USER})): {"read_environment", "read_memory", "trace"},
    (POD, frozenset({Layer.LANDLOCK})): _LANDLOCK,
    (POD, frozenset({Layer.SECCOMP})): _SECCOMP,
    (POD, frozenset({Layer.RLIMITS})): _RLIMITS,
    (POD, frozenset({Layer.USER, Layer.RLIMITS})): {"start_many_processes"},
}
REFUSED_BY_LAYER = [
    pytest.param(uid, layers, escape, id=f"{'root' if uid == ROOT else 'pod'}-{'+'.join(sorted(layers))}-{escape}")
    for (uid, layers), claimed in CLAIMS.items()
    for escape in sorted(claimed)
]
# Sealing refuses it without any layer. Only a decoder has the files.
TRIED = [escape for escape in ESCAPES if escape != "change_shared_files"]


@pytest.fixture(scope="module")
def world() -> Generator[dict[int, dict[str, Any]]]:
    with outside_world(ROOT) as of_root, outside_world(POD) as of_pod:
        tried.cache_clear()
        WORLD.update({ROOT: of_root, POD: of_pod})
        yield WORLD


WORLD: dict[int, dict[str, Any]] = {}


@cache
def tried(uid: int, layers: frozenset[Layer]) -> dict[str, dict[str, str]]:
    """Try every escape from one process with these layers. Return {escape: {"reached" or "refused": how}}."""
    orders = json.dumps([{"escape": escape, **WORLD[uid]} for escape in TRIED])
    ran = subprocess.run(
        [sys.executable, "-m", ALONE, str(uid), ",".join(layers), orders],
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(ran.stdout)
    assert told["layers"] == dict.fromkeys(layers, "")
    return told["escapes"]


@pytest.mark.parametrize("escape", TRIED)
@pytest.mark.parametrize("uid", [ROOT, POD], ids=["root", "pod"])
def test_without_layers_each_escape_gets_through(world: dict[int, dict[str, Any]], uid: int, escape: str):
    assert "reached" in tried(uid, NONE)[escape]


@pytest.mark.parametrize(("uid", "layers", "escape"), REFUSED_BY_LAYER)
def test_each_layer_alone_refuses_what_it_claims(
    world: dict[int, dict[str, Any]], uid: int, layers: frozenset[Layer], escape: str
):
    assert "refused" in tried(uid, layers)[escape]


@pytest.mark.parametrize("escape", ["read_environment", "read_memory", "trace"])
def test_a_service_that_hides_its_memory_needs_no_layer(world: dict[int, dict[str, Any]], escape: str):
    with running_victim(POD, "hidden") as hidden:
        orders = json.dumps([{"escape": escape, **WORLD[POD], **hidden}])
        command = [sys.executable, "-m", ALONE, str(POD), "", orders]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "refused" in json.loads(ran.stdout)["escapes"][escape]

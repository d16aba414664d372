"""Measure what features of pictures and films weigh, and what their way to the thinker's engine costs.

    python -m bench.features [--rounds 5] [--json bench/results/features.json]

One process makes the features of the tiny checkpoint (the sizes are the released ones), another fetches them as a
thinker does, decodes them, and makes of them the values that the engine makes. Times are processor time, medians over
rounds: they depend little on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import grpc.aio
import numpy as np
import torch

from antiphon.v1 import common_pb2, preprocess_pb2_grpc
from bench import cpu
from bench.machine import machine
from bench.report import arguments_parser, report
from services.common.channels import ChannelPool
from services.common.interceptors import CallInterceptor
from services.common.model_card import read_model_card
from services.common.pixels import LEVEL_TABLE, values_of
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import PreprocessBlobs, fetch_blob, serve_blob
from services.local.cache import default_cache_dir
from services.local.checkpoint import Kind, cached_checkpoint
from services.preprocess.features import FeatureExtractor, PreparedItem
from services.thinker.checkpoint import Checkpoint
from services.thinker.features import decode_item

# A minute at two frames a second, each as large as 98 tokens.
FRAMES, HEIGHT, WIDTH = 120, 224, 448
SIDE = 1024
MB = 1e6
R = TypeVar("R")


@dataclass
class Film:
    pixels: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    def read(self, start: int, stop: int) -> Any:
        return self.pixels[start:stop]


class Owner(preprocess_pb2_grpc.PreprocessServicer):
    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._store = BlobStore(sum(map(len, blobs.values())))
        for key, data in blobs.items():
            self._store.put(key, data, "bench")

    async def Fetch(  # noqa: N802  # the rpc's name
        self, request: common_pb2.FetchRequest, context: Any
    ) -> AsyncIterator[common_pb2.FetchResponse]:
        async for response in serve_blob(self._store, request):
            yield response


async def serve(blobs: dict[str, bytes], ready: int) -> None:
    server = grpc.aio.server(interceptors=(CallInterceptor(),))
    owner = Owner(blobs)  # pyright: ignore[reportAbstractUsage]  # only Fetch is called
    preprocess_pb2_grpc.add_PreprocessServicer_to_server(owner, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    os.write(ready, str(port).encode())
    await server.wait_for_termination()


def used_ms(work: Callable[..., R], *given: Any) -> tuple[float, R]:
    """Return (ms of this process's processors, result)."""
    began_s = time.process_time()
    result = work(*given)
    return 1000 * (time.process_time() - began_s), result


async def measure(kind: str, item: PreparedItem, checkpoint: Checkpoint, rounds: int, pid: int, port: int) -> Any:
    """Return an item's sizes, and the ms of each step on its way from the owner, process `pid`."""
    channels = ChannelPool()
    stub = channels.stub(f"127.0.0.1:{port}", PreprocessBlobs)
    ref = common_pb2.BlobRef(owner="bench", key=kind, size_bytes=len(item.kwargs))
    name, repeats = ("pixel_values", checkpoint.patch_frames) if kind == "image" else ("pixel_values_videos", 1)
    found: dict[str, list[float]] = {"fetch_ms": [], "decode_ms": [], "values_ms": []}
    owner_s, values = 0.0, torch.empty(0)
    for number in range(rounds + 1):
        began_s = time.process_time()
        data = await fetch_blob(stub, ref, peer="bench", timeout_s=60)
        fetch_ms = 1000 * (time.process_time() - began_s)
        decode_ms, decoded = used_ms(decode_item, data, kind, item.shape.tokens, checkpoint, "bench")
        tensors: Any = decoded.get_data()
        levels, tables = tensors[name], tensors[LEVEL_TABLE][None]
        values_ms, values = used_ms(values_of, levels, tables, [len(levels)], repeats, torch.bfloat16)
        if not number:  # the warm-up
            owner_s = cpu.used_s(pid)
            continue
        for part, took_ms in zip(found, (fetch_ms, decode_ms, values_ms), strict=True):
            found[part].append(took_ms)
    owner_ms = 1000 * (cpu.used_s(pid) - owner_s) / rounds
    await channels.close()
    return {
        "megabytes": round(len(item.kwargs) / MB, 2),
        "megabytes_as_bfloat16": round(2 * values.numel() / MB, 2),
        "megabytes_as_float32": round(4 * values.numel() / MB, 2),
        "owner_ms": round(owner_ms, 1),
        **{part: round(median(each), 1) for part, each in found.items()},
    }


def run(rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = cached_checkpoint(Kind.INSTRUCT, default_cache_dir(os.environ))
    extractor = FeatureExtractor(folder, "auto")
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    film = Film(random.integers(0, 256, (FRAMES, 3, HEIGHT, WIDTH), np.uint8))
    items = {"image": extractor.image(picture, None, SIDE * SIDE), "video": extractor.video(film, 2.0, use_audio=False)}
    made_ms = {  # the second time
        "image": used_ms(extractor.image, picture, None, SIDE * SIDE)[0],
        "video": used_ms(lambda: extractor.video(film, 2.0, use_audio=False))[0],
    }
    reading, writing = os.pipe()
    pid = os.fork()  # gRPC has not begun
    if not pid:
        asyncio.run(serve({kind: item.kwargs for kind, item in items.items()}, writing))
    try:
        port = int(os.read(reading, 16))
        checkpoint = Checkpoint(folder, read_model_card(folder, "tiny", "auto", 32_768))
        return {
            kind: {
                "made_ms": round(made_ms[kind], 1),
                **asyncio.run(measure(kind, item, checkpoint, rounds, pid, port)),
            }
            for kind, item in items.items()
        }
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    report({"machine": machine(), "rounds": given.rounds, **run(given.rounds)}, given.json)


if __name__ == "__main__":
    main()

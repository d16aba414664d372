"""Log lines as text and as JSON, with the ids of the request and of its trace."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from logging.config import dictConfig
from pathlib import Path
from typing import Any

import pytest

import services.thinker.engine
from services.common.telemetry.logs import configure_logging, set_request_id
from services.common.telemetry.tracing import context_from_headers, tracer
from services.thinker.engine.environment import prepare_environment

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
logger = logging.getLogger("services.test")


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_json_lines_name_the_request_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    caller = context_from_headers({"traceparent": f"00-{TRACE}-{SPAN}-01"})

    async def work(request_id: str) -> None:
        set_request_id(request_id)
        with tracer.start_as_current_span("test", context=caller):
            await asyncio.sleep(0)
            await asyncio.create_task(tell(request_id))

    async def tell(request_id: str) -> None:
        logger.warning("request %s\nwas\t\u201dslow\u201d", request_id)

    logger.info("nobody's")
    await asyncio.gather(work("req_1"), work("req_2"))
    nobody, *told = lines(capsys)
    assert nobody.keys() == {"time", "level", "logger", "message"}
    assert nobody["time"].endswith("+00:00")
    assert sorted((line["message"], line["request_id"]) for line in told) == [
        (f"request {name}\nwas\t\u201dslow\u201d", name) for name in ("req_1", "req_2")
    ]
    for line in told:
        assert (line["level"], line["logger"]) == ("WARNING", "services.test")
        assert line["trace_id"] == TRACE


def test_a_traceback_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    try:
        int("no")
    except ValueError:
        logger.exception("failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback")
    assert "ValueError: invalid literal" in line["exception"]


def test_text_is_as_it_was_and_levels_hold(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING", "text")
    logger.info("hidden")
    logger.warning("shown")
    assert capsys.readouterr().err.split(" ", 2)[2] == "WARNING services.test shown\n"


def test_vllm_writes_the_same_lines(capsys: pytest.CaptureFixture[str]) -> None:
    environ: dict[str, str] = {}
    prepare_environment(environ, json_logs=True)
    path = Path(environ["VLLM_LOGGING_CONFIG_PATH"])
    assert path.parent == Path(*services.thinker.engine.__path__)
    vllm = logging.getLogger("vllm")
    handlers, level, propagates = vllm.handlers[:], vllm.level, vllm.propagate
    try:
        dictConfig(json.loads(path.read_text()))
        logging.getLogger("vllm.core").info("hidden")
        logging.getLogger("vllm.core").warning("shown")
    finally:
        vllm.handlers[:], vllm.propagate = handlers, propagates
        vllm.setLevel(level)
    (line,) = lines(capsys)
    assert (line["logger"], line["message"]) == ("vllm.core", "shown")

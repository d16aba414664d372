"""The Redis functions of lua/ as one library."""

from __future__ import annotations

from importlib import resources

from services.common.queues.keys import lua_key_tables
from services.common.redis_functions import FunctionLibrary

_FILES = ("arguments", "load", "order", "beside", "tickets", "gateways", "workers")


def queue_library() -> FunctionLibrary:
    folder = resources.files("services.common.queues").joinpath("lua")
    body = lua_key_tables() + "".join(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in _FILES)
    return FunctionLibrary("queues", body)


LIBRARY = queue_library()

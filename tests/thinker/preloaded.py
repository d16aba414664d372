"""Modules that the fork server of `served_core` imports once, before it forks."""

from __future__ import annotations

import gc
from importlib import import_module

from services.thinker.engine.environment import prepare_environment

gc.disable()
prepare_environment()
for name in ("vllm.v1.engine.core", "tests.thinker.served_core"):
    import_module(name)
gc.enable()

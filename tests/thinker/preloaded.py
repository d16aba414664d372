"""What the server of `served_core` imports once, before it forks."""

from __future__ import annotations

import gc

from services.thinker.engine.environment import prepare_environment

gc.disable()
prepare_environment()
import vllm.v1.engine.core  # noqa: E402, F401

import tests.thinker.served_core  # noqa: E402, F401

gc.enable()

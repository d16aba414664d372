"""vLLM's general plugin `antiphon_hidden_states`: makes our two forms of the thinker known by names of their own.

vLLM calls `register` in each of its processes, also of programs that have nothing to do with this one: there it imports
nothing but vLLM's registry and takes over no model of theirs. An engine uses the model only where engine/arguments.py
asks for it. In the processes of a thinker's engine, it also puts our structured outputs in the place of vLLM's.
"""

import os
import threading
from importlib import import_module
from multiprocessing import connection, parent_process

# Set by the thinker for its engine's processes (engine/environment.py); absent in every other program.
ENGINE_OF_A_THINKER = "THINKER_ENGINE"
THINKER = "AntiphonThinker"
THINKER_WITH_HIDDEN_STATES = "AntiphonThinkerWithHiddenStates"


def register() -> None:
    if ENGINE_OF_A_THINKER in os.environ and (parent := parent_process()) is not None:
        _end_with(parent.sentinel)
        import_module("services.thinker.engine.structured_outputs")
    from vllm import ModelRegistry  # only where vLLM itself is loading

    ours = {THINKER: "ThinkerModel", THINKER_WITH_HIDDEN_STATES: "ThinkerModelWithHiddenStates"}
    known = ModelRegistry.get_supported_archs()
    for architecture, name in ours.items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, f"services.thinker.engine.model:{name}")


def _end_with(parent: int) -> None:
    """Ends a process of the engine (core or worker) when the one that started it is gone. A thinker that was killed
    tells nobody, and vLLM 0.32.0's core and workers would go on without it, holding the GPU."""

    def wait() -> None:
        connection.wait([parent])
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()

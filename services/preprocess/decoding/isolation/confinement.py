"""How the fork server and its decoders give up what they do not need; `layers` lists it."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

from services.preprocess.decoding.isolation import landlock, linux, namespaces, rlimits, seccomp
from services.preprocess.decoding.isolation.layers import Granted, Layer, attempt


@dataclass(slots=True)
class Confinement:
    """The wanted layers, those that were granted so far, and a decoder's memory in bytes over its libraries."""

    wanted: frozenset[Layer]
    memory_bytes: int
    granted: Granted = field(default_factory=Granted)
    base_bytes: int = 0

    def enter_server(self) -> None:
        """Confine the fork server: all that its decoders can share. It must run one thread, and need no file from now
        on. Where it was the parent of the calling process before, it may be its grandparent after."""
        with contextlib.suppress(OSError):  # some sandboxes do not let a process write it
            # The first to be killed where the machine's memory runs out; decoders inherit it, and are larger.
            Path("/proc/self/oom_score_adj").write_text("1000")
        self.base_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        rlimits.note_base()
        self.granted = namespaces.enter(self.wanted)
        linux.drop_capabilities()
        linux.refuse_new_privileges()
        linux.hide_memory()

    def enter_decoder(self) -> Granted:
        """Confine this process, a decoder, for good. Return what is granted and what is not."""
        layers = {
            Layer.RLIMITS: lambda: rlimits.enter(
                self.base_bytes, self.memory_bytes, count_threads=self.granted.get(Layer.USER) == ""
            ),
            Layer.LANDLOCK: landlock.enter,
            # The last one: it refuses the calls of the others.
            Layer.SECCOMP: lambda: seccomp.enter(seccomp.decoder_rules(os.getpid())),
        }
        return self.granted | {layer: attempt(enter) for layer, enter in layers.items() if layer in self.wanted}

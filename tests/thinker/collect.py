"""The events of a request, joined."""

from __future__ import annotations

from dataclasses import dataclass, field

from antiphon.v1 import common_pb2, thinker_pb2
from services.thinker.service import Thinker


@dataclass
class Collected:
    token_ids: list[int] = field(default_factory=list[int])
    content: str = ""
    reasoning: str = ""
    last: list[bool] = field(default_factory=list[bool])
    kinds: list[str] = field(default_factory=list[str])
    hidden_states: common_pb2.TensorRef | None = None
    prompt_token_ids: list[int] | None = None
    done: thinker_pb2.GenerateDone = field(default_factory=thinker_pb2.GenerateDone)

    def add(self, event: thinker_pb2.GenerateResponse) -> None:
        kind = event.WhichOneof("event")
        self.kinds.append(kind or "")
        if kind == "hidden_states":
            self.hidden_states = event.hidden_states.hidden_states
        elif kind == "done":
            self.done = event.done
        elif kind == "prompt":
            self.prompt_token_ids = list(event.prompt.token_ids)
        else:
            self.token_ids += event.text.token_ids
            self.content += event.text.content_delta
            self.reasoning += event.text.reasoning_delta
            self.last.append(event.text.is_last)


async def collect(thinker: Thinker, request: thinker_pb2.GenerateRequest) -> Collected:
    got = Collected()
    async for event in thinker.generator.run(request):
        got.add(event)
    return got

"""The models that are served now, read from the queues' store at most twice a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from antiphon.v1 import common_pb2
from services.common.input_limits import by_name
from services.common.media_counts import by_modality
from services.common.queues.tickets import ServedModel
from services.gateway.lost_stages import LostStages
from services.gateway.turn.model import Model, ModelKind

FRESH_S = 0.5
PATIENCE_S = 0.1
"""A request waits so long for news of models that it knows."""
_KINDS = {
    common_pb2.MODEL_KIND_INSTRUCT: ModelKind.INSTRUCT,
    common_pb2.MODEL_KIND_THINKING: ModelKind.THINKING,
    common_pb2.MODEL_KIND_CAPTIONER: ModelKind.CAPTIONER,
}


class ModelSource(Protocol):
    async def models(self) -> dict[str, ServedModel]:
        """Raise Unavailable where the store is away."""
        ...


class ModelDirectory:
    """One read at a time serves all that ask. While the store is slow or away, `models` answers with the last one."""

    def __init__(self, source: ModelSource, lost: LostStages) -> None:
        self._source = source
        self._lost = lost
        self._models: Mapping[str, Model] | None = None
        self._read_s = float("-inf")
        self._reading: asyncio.Task[Mapping[str, Model]] | None = None

    async def models(self) -> Mapping[str, Model]:
        """Return the models by name, as they were last read. Raise Unavailable where they never were."""
        if self._models is None:
            return await self.fresh_models()
        if not self._is_fresh:
            await asyncio.wait((self._read(),), timeout=PATIENCE_S)
        return self._models

    async def fresh_models(self) -> Mapping[str, Model]:
        """Return the models by name, as they were at most FRESH_S ago. Raise Unavailable."""
        if self._models is not None and self._is_fresh:
            return self._models
        return await asyncio.shield(self._read())

    @property
    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_s <= FRESH_S

    def _read(self) -> asyncio.Task[Mapping[str, Model]]:
        """Return the read that runs, or begin one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_now(), name="models")
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        return self._reading

    async def _read_now(self) -> Mapping[str, Model]:
        served = await self._source.models()
        shown = {name: model_of(each) for name, each in served.items()}
        models = self._lost.add_to(shown, {name: each.starts_s for name, each in served.items()})
        self._models, self._read_s = models, time.monotonic()
        return models


def model_of(served: ServedModel) -> Model:
    card = served.card
    return Model(
        name=card.name,
        kind=_KINDS.get(card.kind),
        max_model_len=card.max_model_len,
        voices=tuple(card.voices),
        default_voice=card.default_voice,
        sample_rate=card.sample_rate,
        created_unix_s=card.created_unix_s,
        max_items=by_modality(card.max_items) if card.HasField("max_items") else None,
        input_limits=by_name(card.input) if card.HasField("input") else None,
        renders_messages=card.renders_messages,
        structures_answers=card.structures_answers,
        tool_call_token_id=card.tool_call_token_id if card.HasField("tool_call_token_id") else None,
        stages=served.stages,
        asleep=served.asleep,
    )

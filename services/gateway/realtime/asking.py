"""What a session asks the model: its responses, and questions beside the conversation."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.common.errors import BadInput, Forbidden, NotFound
from services.common.queues.tickets import PriorityClass
from services.gateway.realtime.response import ResponseOptions
from services.gateway.turn.admission import Admission
from services.gateway.turn.conversation import Message
from services.gateway.turn.events import Text, Usage
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.intent import FieldNames, Intent, Principal, Sampling
from services.gateway.turn.model import Model
from services.gateway.turn.structure import Structure


class Asking:
    """Asks in the name of one session. `names` is what its client calls the fields of a response, `affinity` is the
    session's id: what it asks goes to the worker that holds its cache."""

    def __init__(
        self, admission: Admission, principal: Principal, model: Model, names: FieldNames, affinity: str
    ) -> None:
        self.admission = admission
        self.principal = principal
        self.model = model
        self._names = names
        self._affinity = affinity

    def check(self, options: ResponseOptions) -> None:
        """Raise BadInput where the model can't serve the options."""
        self.admission.check(self.principal, self.intent((), HeldMedia(), options), self.model)

    async def is_of_model(self, name: str) -> bool:
        """Return whether the name is the model's, or an alias of it. Raise Unavailable."""
        if name == self.model.name:
            return True
        try:
            return (await self.admission.find(self.principal, name)).name == self.model.name
        except (BadInput, Forbidden, NotFound):
            return False

    def intent(self, messages: Sequence[Message], inline: HeldMedia, options: ResponseOptions) -> Intent:
        """Return what a response asks."""
        return Intent(
            names=self._names,
            arrived_s=time.monotonic(),
            messages=messages,
            inline=inline,
            model=self.model.name,
            sampling=options.sampling,
            speech=options.speech if options.speaks else None,
            tools=options.tools.form.tools,
            structure=options.tools.form.structure,
            affinity=self._affinity,
            kind="realtime",
            is_served_in_drain=True,  # a session that drains asks for no more than it has begun
        )

    def reading(self, messages: Sequence[Message], inline: HeldMedia, options: ResponseOptions) -> Intent:
        """Return what has the thinker read the prompt of a response while slots are free, and hardly write. It is
        free."""
        return replace(
            self.intent(messages, inline, options),
            sampling=Sampling(temperature=0.0, max_tokens=1),
            speech=None,
            structure=None,
            priority=PriorityClass.READ_AHEAD,
            is_free=True,
        )

    async def text(
        self,
        messages: Sequence[Message],
        inline: HeldMedia,
        sampling: Sampling,
        structure: Structure | None = None,
        on_text: Callable[[str], Awaitable[None]] | None = None,
        *,
        tools: str = "",
        is_free: bool = False,
    ) -> tuple[str, Usage]:
        """Ask beside the conversation. Return the answer, and what it used. Raise an AntiphonError.

        `on_text` gets the answer as it comes. `tools`: those that the prompt names, as a response's does. `is_free`:
        the client pays nothing, and its limits do not count it.
        """
        intent = Intent(
            names=self._names,
            arrived_s=time.monotonic(),
            messages=messages,
            inline=inline,
            model=self.model.name,
            sampling=sampling,
            tools=tools,
            structure=structure,
            affinity=self._affinity,
            kind="realtime",
            is_served_in_drain=True,  # a session that drains asks for no more than it has begun
            is_free=is_free,
        )
        chunks: list[str] = []
        async with self.admission.admit(self.principal, intent) as turn:
            async for event in turn.events:
                if isinstance(event, Text):
                    if event.content_delta:
                        chunks.append(event.content_delta)
                        if on_text is not None:
                            await on_text(event.content_delta)
                    turn.sent((event,))
            turn.sent_all()
            return "".join(chunks), turn.usage

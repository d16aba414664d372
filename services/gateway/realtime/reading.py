"""What a response reads: items, and fewer of them where they are too many."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.errors import BadInput
from services.gateway.limits import check_text_bytes
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.prompt import messages_of
from services.gateway.realtime.response import ResponseOptions
from services.gateway.realtime.truncate import Context
from services.gateway.turn.intent import Intent


class Reading:
    """`items`: None = those of the conversation's context, with `said`, which is not an item of it yet.

    Raise BadInput or TooLarge where there is nothing to read, or too much text.
    """

    def __init__(
        self,
        asking: Asking,
        context: Context,
        options: ResponseOptions,
        items: Sequence[Item] | None,
        said: Item | None,
        *,
        max_text_bytes: int,
    ) -> None:
        self._asking = asking
        self._context = context
        self._options = options
        self._is_of_context = items is None
        self.items = [*(context.items() if items is None else items), *(() if said is None else (said,))]
        self._messages, self._inline = messages_of(self.items, options.instructions, options.preset)
        if not self._messages:
            raise BadInput("There is nothing to respond to. Commit audio or create an item first.", code="no_input")
        check_text_bytes(self._messages, max_text_bytes, options.tools.form.tools)

    def intent(self) -> Intent:
        return self._asking.intent(self._messages, self._inline, self._options)

    def ahead(self) -> Intent:
        """Return what has the thinker read it, and say nothing."""
        return self._asking.reading(self._messages, self._inline, self._options)

    def shorter(self) -> Intent | None:
        """Return what is asked with fewer items, for there were too many; None = there can't be fewer."""
        options = self._options
        fewer = self._context.shorten(self.items, options.truncation) if self._is_of_context else None
        if fewer is None:
            return None
        self.items = fewer
        return self._asking.intent(*messages_of(fewer, options.instructions, options.preset), options)

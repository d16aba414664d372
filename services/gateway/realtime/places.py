"""Where the items of a response go: into its conversation, or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.gateway.realtime.conversation import Conversation, Item


class Places(Protocol):
    def add(self, item: Item, after: str | None) -> str | None:
        """Add an item behind another one of the response or, where there is none, behind what the response answers.
        Return the id of the item before it."""
        ...

    def before(self, item: Item) -> str | None:
        """Return the id of the item before one that was added."""
        ...


class InConversation:
    """`add` adds an item to the conversation, as Conversation.add does. `answers`: the id of the last item that
    was there as the response began; what was added since is behind the answer, and not answered yet."""

    def __init__(
        self, conversation: Conversation, add: Callable[[Item, str | None], str | None], answers: str | None
    ) -> None:
        self._conversation = conversation
        self._add = add
        self._answers = answers

    def add(self, item: Item, after: str | None) -> str | None:
        behind = after if after is not None else self._answers
        return self._add(item, behind if behind in self._conversation else None)

    def before(self, item: Item) -> str | None:
        return self._conversation.before(item)


class Nowhere:
    """For a response out of band."""

    def add(self, item: Item, after: str | None) -> str | None:
        return None

    def before(self, item: Item) -> str | None:
        return None

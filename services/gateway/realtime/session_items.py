"""The items of a session, what the model reads of them, and the memory that they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.common.errors import BadInput
from services.gateway.realtime.conversation import Conversation, Item, SpeechContent
from services.gateway.realtime.events import Emit, ItemAdded, ItemDeleted, ItemRetrieved, ItemTruncated
from services.gateway.realtime.memory import SessionMemory
from services.gateway.realtime.truncate import Context


class SessionItems:
    """`other_bytes`: what the session takes beside its items."""

    def __init__(self, memory: SessionMemory, emit: Emit, other_bytes: Callable[[], int]) -> None:
        self.conversation = Conversation()
        self.context = Context(self.conversation)
        self.version = 0
        """Counts the changes of what a response reads."""
        self._memory = memory
        self._emit = emit
        self._other_bytes = other_bytes
        self._bytes = 0

    async def create(self, item: Item, after: str | None) -> None:
        """Add an item behind the one with the id `after`: "" = as the first, None = as the last one."""
        self.conversation.check_new(item, after)
        self.conversation.check_output(item)
        await self.reserve(item.size_bytes)
        await self._emit(ItemAdded(item, self.add(item, after)))

    async def retrieve(self, item_id: str) -> None:
        await self._emit(ItemRetrieved(self.conversation.get(item_id, "item_retrieve_invalid_item_id")))

    async def delete(self, item_id: str) -> None:
        item = self.conversation.get(item_id, "item_delete_invalid_item_id")
        item.check_whole()
        self.context.leave_out(item)
        self.conversation.remove(item)
        self.version += 1
        self._bytes -= item.size_bytes
        await self._emit(ItemDeleted(item_id))
        await self.reserve(0)

    async def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Keep of a spoken answer what was heard until `audio_end_ms`."""
        item = self.conversation.get(item_id, "item_truncate_invalid_item_id")
        item.check_whole()
        content = item.contents[content_index] if content_index < len(item.contents) else None
        if content is None:
            raise BadInput(f"Invalid 'content_index': the item has {len(item.contents)} parts.", param="content_index")
        if not isinstance(content, SpeechContent):
            raise BadInput("Only spoken answers can be truncated.", param="item_id", code="item_truncate_no_audio")
        if audio_end_ms > content.spoken.sent_ms:
            raise BadInput(
                f"Invalid 'audio_end_ms': {content.spoken.sent_ms} ms of this item were sent, less than"
                f" {audio_end_ms} ms.",
                param="audio_end_ms",
            )
        size_bytes = item.size_bytes
        content.spoken.truncate(audio_end_ms)
        self.version += 1
        self._bytes += item.size_bytes - size_bytes
        await self._emit(ItemTruncated(item_id, audio_end_ms))

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Add an item without a word, as Conversation.add does."""
        previous_id = self.conversation.add(item, after)
        self._bytes += item.size_bytes
        self.version += 1
        return previous_id

    def bytes_beside(self, items: Iterable[Item]) -> int:
        """Return what those of the items take that are not in the conversation: they never were, or were deleted while
        they are read."""
        beside = {id(item): item for item in items if not self.conversation.holds(item)}
        return sum(item.size_bytes for item in beside.values())

    def count(self) -> None:
        """Count anew: an answer or a transcript has grown."""
        self._bytes = sum(item.size_bytes for item in self.conversation)

    async def reserve(self, more_bytes: int) -> None:
        """Take memory for what is there and `more_bytes`. Raise TooLarge or Capacity where there is no room."""
        await self._memory.resize(self._bytes + self._other_bytes() + max(more_bytes, 0))

"""Renders and tokenizes conversations without media, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from antiphon.v1 import preprocess_pb2
from services.common.chat_template import ChatTemplate, load_chat_template
from services.common.errors import BadInput
from services.thinker.checkpoint import Checkpoint


class MessageRenderer:
    """One thread, because a tokenizer has state."""

    def __init__(self, template: ChatTemplate, thread: ThreadPoolExecutor) -> None:
        self._template = template
        self._thread = thread

    async def token_ids(self, messages: Sequence[preprocess_pb2.Message], tools_json: str) -> list[int]:
        """Return the prompt that Prepare would give. Raise BadInput, also for media, or ContextTooLong."""
        for message in messages:
            for part in message.parts:
                if part.WhichOneof("content") != "text":
                    raise BadInput("A thinker renders text only. Call Prepare for media.", param=part.path)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._template.token_ids, messages, tools_json)


@asynccontextmanager
async def message_renderer(checkpoint: Checkpoint) -> AsyncGenerator[MessageRenderer]:
    """Load the checkpoint's chat template, and run its thread inside the block."""
    with ThreadPoolExecutor(1, "messages") as thread:
        template = await asyncio.get_running_loop().run_in_executor(
            thread, load_chat_template, checkpoint.folder, checkpoint.card.max_model_len
        )
        yield MessageRenderer(template, thread)

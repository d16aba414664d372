"""Renders messages with the checkpoint's chat template and tokenizes them, with one placeholder for each media part.

A client's text is only text. A special token's name in it ("<|im_end|>", "<|audio_pad|>") is tokenized as plain
characters, so it can neither end a turn nor stand for media; transformers would turn it into the token. The tags of
reasoning and tool calls ("</think>") are not special in the released checkpoints: templates look for them in the
history.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput, ContextTooLong

# Ends each turn of the chat template, and so each answer.
_END_OF_TURN = "<|im_end|>"
ROLES = frozenset({"system", "user", "assistant", "tool"})


def load_chat_template(model_dir: Path, max_tokens: int) -> ChatTemplate:
    """Return the template and tokenizer of the checkpoint's processor, without the rest of it."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    described, _ = ProcessorMixin.get_processor_dict(model_dir)
    return ChatTemplate(tokenizer, described.get("chat_template") or tokenizer.chat_template, max_tokens)


class ChatTemplate:
    """Renders and tokenizes conversations. Use it from one thread at a time: tokenizers have state."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._max_tokens = max_tokens
        added = tokenizer.added_tokens_decoder.values()
        names = {token.content for token in added if token.special}
        self._special = re.compile("|".join(f"(?={re.escape(name)})" for name in sorted(names)))
        # A longer text cannot fit: no token stands for more than `longest` bytes.
        longest = max(len(token) for token in tokenizer.get_vocab())
        self._max_bytes = longest * max_tokens

    def token_ids(self, messages: Sequence[preprocess_pb2.Message], tools_json: str) -> list[int]:
        """Return the prompt that asks for an answer to `messages`. Raise BadInput or ContextTooLong.

        `tools_json`: a list of tools as OpenAI's clients write them; "" = none.
        """
        mark = _mark()
        conversation = [self._as_template_message(message, i, mark) for i, message in enumerate(messages)]
        tools = self._parse_tools(tools_json, mark)
        try:
            text = self._tokenizer.apply_chat_template(
                conversation,
                tools=tools,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (jinja2.TemplateError, TypeError, ValueError):
            raise BadInput("The model's chat template does not accept this conversation.", param="messages") from None
        assert isinstance(text, str)  # noqa: S101  # for the type checker: tokenize=False
        if len(text.encode()) > self._max_bytes + len(mark) * text.count(mark):
            raise _too_long(self._max_tokens)
        return self._ids(text, mark)

    def answer_ids(self, text: str) -> list[int]:
        """Return `text` as the tokens of an answer, with the end token. Raise ContextTooLong."""
        mark = _mark()
        if len(text.encode()) > self._max_bytes:
            raise _too_long(self._max_tokens)
        end = self._tokenizer.convert_tokens_to_ids(_END_OF_TURN)
        assert isinstance(end, int)  # noqa: S101  # for the type checker: one token
        return [*self._ids(self._disarm(text, mark), mark), end]

    def _ids(self, text: str, mark: str) -> list[int]:
        chunks = text.split(mark)
        return [token for chunk in chunks for token in self._tokenizer(chunk, add_special_tokens=False)["input_ids"]]

    def _as_template_message(self, message: preprocess_pb2.Message, index: int, mark: str) -> dict[str, Any]:
        if message.role not in ROLES:
            raise BadInput(
                f"The role {message.role!r} is unknown. Send one of: {', '.join(sorted(ROLES))}.",
                param=f"messages[{index}].role",
            )
        content: list[dict[str, str]] = []
        # The template joins neighbouring text parts, so a name that is split over two parts is still a name.
        for kind, run in groupby(message.parts, key=lambda part: part.WhichOneof("content")):
            parts = list(run)
            if kind == "text":
                text = self._disarm("".join(part.text for part in parts), mark)
                content.append({"type": "text", "text": text})
            elif kind is None:
                raise BadInput("The part is empty.", param=parts[0].path or f"messages[{index}].content")
            else:
                content.extend({"type": kind, kind: ""} for _ in parts)
        rendered: dict[str, Any] = {"role": message.role, "content": content}
        if all(part["type"] == "text" for part in content):
            rendered["content"] = "".join(part["text"] for part in content)
        if message.tool_calls:
            rendered["tool_calls"] = [self._as_template_call(call, mark) for call in message.tool_calls]
        if message.tool_call_id:
            rendered["tool_call_id"] = self._disarm(message.tool_call_id, mark)
        return rendered

    def _as_template_call(self, call: preprocess_pb2.ToolCall, mark: str) -> dict[str, Any]:
        """Return a call as transformers wants it: its arguments are an object, not a string of JSON as with OpenAI."""
        try:
            arguments = json.loads(call.arguments_json)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            param = f"{call.path}.function.arguments"
            raise BadInput(f"Invalid '{param}': it is not a JSON object. Send the arguments as one.", param=param)
        function = {"name": call.name, "arguments": arguments}
        return self._disarm_all({"type": "function", "id": call.id, "function": function}, mark)

    def _parse_tools(self, tools_json: str, mark: str) -> list[Any] | None:
        if not tools_json:
            return None
        try:
            tools = json.loads(tools_json)
        except (ValueError, RecursionError):
            raise BadInput("tools is not valid JSON. Send a list of objects.", param="tools") from None
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise BadInput("tools must be a list of objects.", param="tools")
        return self._disarm_all(tools, mark) or None

    def _disarm_all(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return self._disarm(value, mark)
        if isinstance(value, Mapping):
            return {self._disarm(str(key), mark): self._disarm_all(item, mark) for key, item in value.items()}
        if isinstance(value, list):
            return [self._disarm_all(item, mark) for item in value]
        return value

    def _disarm(self, text: str, mark: str) -> str:
        """Insert `mark` after the first character of each special token's name.

        `token_ids` splits the text there and tokenizes each chunk alone, so that no chunk contains the name.
        """
        out: list[str] = []
        start = 0
        for found in self._special.finditer(text):
            out += (text[start : found.start() + 1], mark)
            start = found.start() + 1
        return "".join((*out, text[start:]))


def _mark() -> str:
    """Return a text that no client's text contains: it cannot be guessed."""
    return f"\ue000{secrets.token_hex(8)}\ue001"


def _too_long(max_tokens: int) -> ContextTooLong:
    return ContextTooLong(
        f"The text is longer than the {max_tokens} tokens that the model takes. Send a shorter one.",
        param="messages",
    )

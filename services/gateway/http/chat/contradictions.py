"""Fields of a chat request that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.gateway.http.chat.tools.schema import NamedTool, Tool, ToolChoice
from services.gateway.limits import MAX_ALL_PARTS

if TYPE_CHECKING:
    from services.gateway.http.chat.schema import ChatRequest


def contradictions(chat: ChatRequest) -> list[tuple[str, str]]:
    """Return (field at fault, message) of each contradiction, the most telling first."""
    found: list[tuple[str, str]] = []
    if sum(len(m.content) for m in chat.messages if isinstance(m.content, list)) > MAX_ALL_PARTS:
        found.append(("messages", f"Invalid 'messages': they hold more than {MAX_ALL_PARTS} parts. Send fewer."))
    if chat.modalities is not None and "text" not in chat.modalities:
        found.append(("modalities", 'Invalid \'modalities\': speech comes with its text. Send ["text", "audio"].'))
    if chat.modalities is not None and len(set(chat.modalities)) < len(chat.modalities):
        found.append(("modalities", "Invalid 'modalities': one of them is listed twice."))
    # With modalities ["text"] it is a client's default, and asks for nothing.
    if chat.audio is not None and chat.modalities is None:
        found.append(("audio", "Invalid 'audio': the answer has no speech. Add \"audio\" to 'modalities'."))
    if chat.talker is not None and not chat.wants_speech:
        found.append(("talker", "Invalid 'talker': the answer has no speech. Add \"audio\" to 'modalities'."))
    inner = chat.mm_processor_kwargs.use_audio_in_video if chat.mm_processor_kwargs else None
    if inner is not None and chat.use_audio_in_video is not None and inner != chat.use_audio_in_video:
        found.append(
            (
                "mm_processor_kwargs.use_audio_in_video",
                "'use_audio_in_video' and 'mm_processor_kwargs.use_audio_in_video' differ. Send one of them.",
            )
        )
    if None not in (chat.max_tokens, chat.max_completion_tokens) and chat.max_tokens != chat.max_completion_tokens:
        found.append(("max_tokens", "'max_tokens' and 'max_completion_tokens' differ. Send one of them."))
    if chat.min_tokens is not None and chat.token_limit is not None and chat.min_tokens > chat.token_limit:
        found.append(("min_tokens", "Invalid 'min_tokens': it is larger than the limit on the answer's tokens."))
    if chat.stream_options is not None and chat.stream_options.include_usage and not chat.stream:
        found.append(("stream_options", "Invalid 'stream_options': it needs 'stream': true."))
    found += in_tools(chat.tools or (), chat.tool_choice)
    found += _in_structure(chat)
    if chat.top_logprobs and not chat.logprobs:
        found.append(("top_logprobs", "Invalid 'top_logprobs': it needs 'logprobs': true."))
    if (chat.n or 1) > 1 and chat.wants_speech:
        found.append(("n", "Invalid 'n': an answer with speech has one choice. Leave it out, or ask for text only."))
    by_answer = {thinks: name for name, thinks in chat.thinking.items()}
    if len(by_answer) > 1:
        found.append((by_answer[True], f"'{by_answer[True]}' and '{by_answer[False]}' differ. Send one of them."))
    return found


def in_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> list[tuple[str, str]]:
    """Return the contradictions of a request's tools, as `contradictions` does."""
    found: list[tuple[str, str]] = []
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        found.append(("tools", "Invalid 'tools': two of them have the same name."))
    if choice == "required" and not names:
        found.append(("tool_choice", "Invalid 'tool_choice': there are no tools. Send some in 'tools'."))
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        found.append(("tool_choice", "Invalid 'tool_choice': it names a function that is not among 'tools'."))
    return found


def _in_structure(chat: ChatRequest) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    asks_for_json = chat.response_format is not None and chat.response_format.type != "text"
    if chat.structured_outputs is not None and len(chat.structured_outputs.forms) != 1:
        found.append(
            (
                "structured_outputs",
                "Invalid 'structured_outputs': send exactly one of json, json_object, regex, choice and grammar.",
            )
        )
    if asks_for_json and chat.structured_outputs is not None:
        found.append(("structured_outputs", "'response_format' and 'structured_outputs' are both given. Send one."))
    is_structured = asks_for_json or chat.structured_outputs is not None
    if chat.structured_outputs is not None and chat.may_call_tools:
        found.append(
            (
                "structured_outputs",
                "Invalid 'structured_outputs': the answer may also be a call of a tool. Leave out one of them.",
            )
        )
    if is_structured or chat.calls_are_structured:
        found += [
            (field, f"Invalid '{field}': the form of a structured answer says where it ends. Leave it out.")
            for field in ("min_tokens", "ignore_eos", "stop_token_ids")
            if getattr(chat, field)
        ]
    return found

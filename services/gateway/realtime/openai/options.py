"""The options of a session and of a response, from the client and for it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from services.common.errors import BadInput
from services.gateway.http.chat.structure.translate import FormNames
from services.gateway.http.chat.tools.schema import Tool
from services.gateway.http.presets.presets import PRESETS, AskedPreset
from services.gateway.http.responses.tools import choice_object, tool_object
from services.gateway.realtime.audio.formats import PCM_FORMATS, AudioFormat
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.input_options import Transcription
from services.gateway.realtime.openai.schema import (
    AudioOutput,
    G711Format,
    PcmFormat,
    ResponseOptionsGiven,
    RetentionRatio,
    SemanticVad,
    SessionOptions,
)
from services.gateway.realtime.prompt import PRESET
from services.gateway.realtime.response import ResponseOptions
from services.gateway.realtime.session import Session
from services.gateway.realtime.tools import Tools, checked_tools
from services.gateway.realtime.truncate import Truncation
from services.gateway.realtime.turns.options import Eagerness, TurnDetection
from services.gateway.turn.intent import FieldNames, SpeechSampling

FIELD_NAMES = FieldNames(
    voice="audio.output.voice", modalities="output_modalities", messages="conversation", max_tokens="max_output_tokens"
)
_FORM_NAMES = FormNames(parameters="parameters")
_FORMATS: dict[AudioFormat, dict[str, Any]] = {
    **{audio_format: {"type": "audio/pcm", "rate": rate} for rate, audio_format in PCM_FORMATS.items()},
    AudioFormat.PCMU: {"type": "audio/pcmu"},
    AudioFormat.PCMA: {"type": "audio/pcma"},
}

# What null takes away. Other fields stay as they were.
_NULL_SAYS = frozenset({PRESET, "transcription", "turn_detection"})


async def check_model(given: SessionOptions, session: Session) -> None:
    """Raise BadInput where the client asks for another model than the session has, Unavailable where that can't be
    known."""
    if given.model is not None and not await session.asking.is_of_model(given.model):
        raise BadInput(
            f"Invalid 'session.model': the session has '{session.model.name}' to its end. Connect anew for another.",
            param="session.model",
        )


def changed(options: ResponseOptions, given: SessionOptions | ResponseOptionsGiven) -> ResponseOptions:
    """Return the options with those in the place of theirs that the client gave. Raise BadInput where the tools are
    not right."""
    sampling, speech = options.sampling, options.speech
    for name in ("temperature", "top_p", "top_k", "presence_penalty", "repetition_penalty", "seed"):
        if (value := getattr(given, name)) is not None:
            sampling = replace(sampling, **{name: max(value, 0) if name == "top_k" else value})
    if given.max_output_tokens is not None:
        limit = given.max_output_tokens
        sampling = replace(sampling, max_tokens=limit if isinstance(limit, int) else None)
    if given.talker is not None:
        talker = given.talker
        own = SpeechSampling(
            do_sample=talker.do_sample,
            temperature=talker.temperature,
            top_k=talker.top_k,
            top_p=talker.top_p,
            repetition_penalty=talker.repetition_penalty,
            seed=talker.seed,
        )
        speech = replace(speech, sampling=own, max_frames=talker.max_frames)
    if speech.sampling.seed is None and given.seed is not None:
        speech = replace(speech, sampling=replace(speech.sampling, seed=given.seed))  # as in chat requests
    output: AudioOutput | None = given.audio.output if given.audio else None
    audio_format = options.audio_format
    if output is not None and output.format is not None:
        audio_format = format_of(output.format)
    if output is not None and output.voice is not None:
        speech = replace(speech, voice=output.voice.id)
    if isinstance(given, SessionOptions):
        options = _changed_session(options, given)
    return replace(
        options,
        sampling=sampling,
        audio_format=audio_format,
        speech=speech,
        speaks=options.speaks if given.output_modalities is None else given.output_modalities == ["audio"],
        instructions=options.instructions if given.instructions is None else given.instructions,
        preset=_changed_preset(options.preset, given),
        tools=_changed_tools(options.tools, given),
    )


def _changed_preset(preset: AskedPreset | None, given: SessionOptions | ResponseOptionsGiven) -> AskedPreset | None:
    if PRESET not in given.model_fields_set:
        return preset
    return given.antiphon_preset.asked if given.antiphon_preset is not None else None


def _changed_session(options: ResponseOptions, given: SessionOptions) -> ResponseOptions:
    """Return the options with those that only a session has."""
    audio = given.audio.input if given.audio is not None else None
    if audio is not None and "transcription" in audio.model_fields_set:
        wished = audio.transcription
        transcription = Transcription(wished.language, wished.prompt or "") if wished is not None else None
        options = replace(options, transcription=transcription)
    match given.truncation:
        case None:
            return options
        case "disabled":
            return replace(options, truncation=None)
        case "auto":
            return replace(options, truncation=Truncation())
        case RetentionRatio(retention_ratio=ratio):
            return replace(options, truncation=Truncation(ratio, is_auto=False))


def _changed_tools(tools: Tools, given: SessionOptions | ResponseOptionsGiven) -> Tools:
    if given.tools is None and given.tool_choice is None and given.parallel_tool_calls is None:
        return tools
    return checked_tools(
        tools.tools if given.tools is None else given.tools,
        tools.choice if given.tool_choice is None else given.tool_choice,
        tools.parallel_tool_calls if given.parallel_tool_calls is None else given.parallel_tool_calls,
        _FORM_NAMES,
    )


def merged_settings(settings: str, given: SessionOptions) -> str:
    """Return what was given until now and is given now, as JSON that SessionOptions reads."""
    before: dict[str, Any] = json.loads(settings) if settings else {}
    now = _said(given.model_dump(mode="json", exclude_unset=True, exclude={"type", "model"}))
    audio: dict[str, Any] = {
        side: {**(before.get("audio") or {}).get(side, {}), **_said((now.get("audio") or {}).get(side) or {})}
        for side in ("input", "output")
    }
    return json.dumps({**before, **now, "audio": audio}, ensure_ascii=False)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields without those that are null and change nothing."""
    return {name: value for name, value in given.items() if value is not None or name in _NULL_SAYS}


def format_of(given: PcmFormat | G711Format) -> AudioFormat:
    if isinstance(given, PcmFormat):
        return PCM_FORMATS[given.rate or SAMPLE_RATE]
    return AudioFormat(given.type.removeprefix("audio/"))


def changed_input_format(current: AudioFormat, given: SessionOptions) -> AudioFormat:
    given_input = given.audio.input if given.audio is not None else None
    return format_of(given_input.format) if given_input is not None and given_input.format is not None else current


def changed_turn_detection(current: TurnDetection | None, given: SessionOptions) -> TurnDetection | None:
    """Return how turns are detected from now on. What is left out of a new turn_detection has its default."""
    given_input = given.audio.input if given.audio is not None else None
    if given_input is None or "turn_detection" not in given_input.model_fields_set:
        return current
    vad = given_input.turn_detection
    if vad is None:
        return None
    wished = {name: value for name, value in vad if name not in ("type", "eagerness") and value is not None}
    if isinstance(vad, SemanticVad):
        wished["eagerness"] = Eagerness(vad.eagerness or "auto")
    return replace(TurnDetection(), **wished)


def _turn_detection_object(detection: TurnDetection | None) -> dict[str, Any] | None:
    if detection is None:
        return None
    shown = asdict(detection)
    eagerness = shown.pop("eagerness")
    if eagerness is None:
        return {"type": "server_vad", **shown}
    answers = {name: shown[name] for name in ("create_response", "interrupt_response")}
    return {"type": "semantic_vad", "eagerness": eagerness.value, **answers}


def _preset_object(asked: AskedPreset) -> dict[str, Any]:
    shown = {name: getattr(asked, name) for name in PRESETS[asked.name].parameters}
    return {"name": asked.name, **{name: value for name, value in shown.items() if value is not None}}


def _transcription_object(transcription: Transcription, model: str | None) -> dict[str, Any]:
    shown = {"model": model, "language": transcription.language, "prompt": transcription.prompt}
    return {key: value for key, value in shown.items() if value}


def _truncation_object(truncation: Truncation | None) -> str | dict[str, Any]:
    if truncation is None:
        return "disabled"
    ratio = truncation.retention_ratio
    return "auto" if truncation.is_auto else {"type": "retention_ratio", "retention_ratio": ratio}


def session_object(session: Session, input_format: AudioFormat) -> dict[str, Any]:
    described = described_session(session.id, session.model.name, session.options, session.turn_detection, input_format)
    return {**described, "expires_at": session.expires_unix_s}


def described_session(
    session_id: str,
    model: str | None,
    options: ResponseOptions,
    turn_detection: TurnDetection | None,
    input_format: AudioFormat,
) -> dict[str, Any]:
    """Return a session as the client sees it; `model` None = not chosen yet."""
    heard = {"format": _FORMATS[input_format], "turn_detection": _turn_detection_object(turn_detection)}
    if options.transcription is not None:
        heard["transcription"] = _transcription_object(options.transcription, model)
    return {
        "id": session_id,
        "object": "realtime.session",
        "type": "realtime",
        **({"model": model} if model is not None else {}),
        "instructions": options.instructions,
        **({PRESET: _preset_object(options.preset)} if options.preset is not None else {}),
        **_common(options, {"input": heard}),
        "tools": [_tool_object(tool) for tool in options.tools.tools],
        "tool_choice": choice_object(options.tools.choice),
        "truncation": _truncation_object(options.truncation),
    }


def _tool_object(tool: Tool) -> dict[str, Any]:
    return {key: value for key, value in tool_object(tool).items() if value}


def response_options_object(options: ResponseOptions) -> dict[str, Any]:
    return _common(options, {})


def _common(options: ResponseOptions, audio: dict[str, Any]) -> dict[str, Any]:
    output: dict[str, Any] = {"format": _FORMATS[options.audio_format]}
    if options.speech.voice:
        output["voice"] = options.speech.voice
    return {
        "output_modalities": ["audio" if options.speaks else "text"],
        "max_output_tokens": options.sampling.max_tokens or "inf",
        "audio": {**audio, "output": output},
    }

"""DashScope's options as OpenAI's, which the session's are made of. Pure: no socket."""

from __future__ import annotations

from typing import Any

from services.gateway.http.chat.schema import VoiceId
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.dashscope import schema
from services.gateway.realtime.openai import schema as openai
from services.gateway.realtime.turns import options
from services.gateway.turn.intent import FieldNames

FIELD_NAMES = FieldNames(voice="voice", modalities="modalities", messages="conversation", max_tokens="max_tokens")
INPUT_RATE = 16_000
"""Of audio from a client that says no other, Hz."""
TURN_DETECTION = options.TurnDetection(silence_duration_ms=800)
"""DashScope's defaults."""
# DashScope's threshold is from -1 to 1 and no probability: its clients send 0.1 or 0.2, its default is 0.5. The bounds
# of ours keep speech that can't begin, or never ends, from being asked for.
_MIDDLE, _LEAST, _MOST = 0.5, 0.05, 0.95
_SAME_NAMES = (
    "instructions",
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "repetition_penalty",
    "tools",
    "tool_choice",
)


def probability_of(threshold: float) -> float:
    """Return how probable speech must be, 0.05 to 0.95, for a threshold of DashScope's. The defaults are the same."""
    if threshold < _MIDDLE:
        return max(_MIDDLE + (_MIDDLE - _LEAST) * (threshold - _MIDDLE) / (_MIDDLE + 1), _LEAST)
    return min(_MIDDLE + (_MOST - _MIDDLE) * (threshold - _MIDDLE) / (1 - _MIDDLE), _MOST)


def threshold_of(probability: float) -> float:
    """Return DashScope's threshold for how probable speech must be."""
    if probability < _MIDDLE:
        return max(round(_MIDDLE + (probability - _MIDDLE) * (_MIDDLE + 1) / (_MIDDLE - _LEAST), 3), -1.0)
    return min(round(_MIDDLE + (probability - _MIDDLE) * (1 - _MIDDLE) / (_MOST - _MIDDLE), 3), 1.0)


def event_from(event: schema.SessionUpdate | schema.ResponseCreate) -> openai.SessionUpdate | openai.ResponseCreate:
    """Return OpenAI's event of what the client asks."""
    if isinstance(event, schema.SessionUpdate):
        return openai.SessionUpdate(type=event.type, session=session_options(event.session))
    given = event.response or schema.ResponseOptions()
    fields = _common(given)
    if given.voice is not None:
        fields["audio"] = openai.ResponseAudio(output=openai.AudioOutput(voice=VoiceId(id=given.voice)))
    return openai.ResponseCreate(type=event.type, response=openai.ResponseOptionsGiven(**fields))


def session_options(given: schema.SessionOptions) -> openai.SessionOptions:
    fields = _common(given)
    if given.model is not None:
        fields["model"] = given.model
    heard, spoken = _audio_input(given), _audio_output(given)
    if heard or spoken:
        fields["audio"] = openai.SessionAudio(
            input=openai.AudioInput(**heard) if heard else None,
            output=openai.AudioOutput(**spoken) if spoken else None,
        )
    return openai.SessionOptions(**fields)


def _common(given: schema.Options) -> dict[str, Any]:
    fields = {name: value for name in _SAME_NAMES if (value := getattr(given, name)) is not None}
    if given.modalities is not None:
        fields["output_modalities"] = ["audio" if "audio" in given.modalities else "text"]
    if given.max_tokens is not None:
        fields["max_output_tokens"] = given.max_tokens
    if given.seed is not None and given.seed >= 0:
        fields["seed"] = given.seed
    return fields


def _audio_input(given: schema.SessionOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    new = given.audio.input.format if given.audio and given.audio.input else None
    rate = new.sample_rate if new is not None and new.sample_rate is not None else given.sample_rate
    if rate is not None or new is not None or given.input_audio_format is not None:
        fields["format"] = openai.PcmFormat(type="audio/pcm", rate=rate or INPUT_RATE)
    if "turn_detection" in given.model_fields_set:
        fields["turn_detection"] = _turn_detection(given.turn_detection)
    if "input_audio_transcription" in given.model_fields_set:
        fields["transcription"] = _transcription(given.input_audio_transcription)
    return fields


def _audio_output(given: schema.SessionOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    new = given.audio.output if given.audio else None
    if (new is not None and new.format is not None) or given.output_audio_format is not None:
        rate = new.format.sample_rate if new is not None and new.format is not None else None
        fields["format"] = openai.PcmFormat(type="audio/pcm", rate=rate or SAMPLE_RATE)
    voice = given.voice if given.voice is not None else new.voice if new is not None else None
    if voice is not None:
        fields["voice"] = VoiceId(id=voice)
    return fields


def _turn_detection(given: schema.TurnDetection | None) -> openai.ServerVad | openai.SemanticVad | None:
    if given is None:
        return None
    if given.type in ("semantic_vad", "smart_turn"):
        return openai.SemanticVad(
            type="semantic_vad", create_response=given.create_response, interrupt_response=given.interrupt_response
        )
    silence_ms = given.silence_duration_ms
    return openai.ServerVad(
        type="server_vad",
        threshold=probability_of(given.threshold) if given.threshold is not None else None,
        prefix_padding_ms=given.prefix_padding_ms,
        silence_duration_ms=TURN_DETECTION.silence_duration_ms if silence_ms is None else silence_ms,
        create_response=given.create_response,
        interrupt_response=given.interrupt_response,
    )


def _transcription(given: schema.Transcription | None) -> openai.InputTranscription | None:
    if given is None:
        return None
    prompt = given.corpus.text if given.corpus is not None else None
    return openai.InputTranscription(model=given.model, language=given.language, prompt=prompt)

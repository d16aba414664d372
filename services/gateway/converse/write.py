"""From a turn's events to Converse's responses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from antiphon.v1 import gateway_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.gateway.http.chat.completion import new_call_id
from services.gateway.http.chat.tools.parser import CallArguments, CallBegun, Content, Piece, ToolCallParser
from services.gateway.turn.events import (
    FinishReason,
    Logprob,
    Speech,
    SpeechEnd,
    SpeechStarted,
    Text,
    TokenLogprobs,
    TurnDone,
    TurnEvent,
    TurnStarted,
    TurnTimings,
    Usage,
)

_FINISHED = {
    FinishReason.STOP: thinker_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: thinker_pb2.FINISH_REASON_LENGTH,
}
_SPOKEN = {
    None: talker_pb2.SPEECH_END_UNSPECIFIED,
    SpeechEnd.STOP: talker_pb2.SPEECH_END_STOP,
    SpeechEnd.LENGTH: talker_pb2.SPEECH_END_LENGTH,
    SpeechEnd.NO_TEXT: talker_pb2.SPEECH_END_NO_TEXT,
}


class Responses:
    """Makes responses of a turn's events, in order. `tool_names`: those of the tools that the model may call."""

    def __init__(self, tool_names: Collection[str] = (), *, new_id: Callable[[], str] = new_call_id) -> None:
        self._parser = ToolCallParser(tool_names, new_id) if tool_names else None

    def of(self, event: TurnEvent) -> list[gateway_pb2.ConverseResponse]:
        if self._parser is None:
            return [response_of(event)]
        match event:
            case Text():
                pieces = self._parser.add(event.content_delta)
                said = "".join(piece.text for piece in pieces if isinstance(piece, Content))
                return [response_of(replace(event, content_delta=said)), *_calls(pieces)]
            case TurnDone():
                pieces = self._parser.finish()
                said = "".join(piece.text for piece in pieces if isinstance(piece, Content))
                rest = [response_of(Text((), said))] if said else []
                return [*rest, *_calls(pieces), response_of(event)]
            case _:
                return [response_of(event)]


def _calls(pieces: Sequence[Piece]) -> list[gateway_pb2.ConverseResponse]:
    deltas: list[gateway_pb2.ToolCallDelta] = []
    for piece in pieces:
        match piece:
            case CallBegun(index, id, name):
                deltas.append(gateway_pb2.ToolCallDelta(index=index, id=id, name=name))
            case CallArguments(index, text):
                deltas.append(gateway_pb2.ToolCallDelta(index=index, arguments_delta=text))
            case Content():
                pass
    return [gateway_pb2.ConverseResponse(tool_call=delta) for delta in deltas]


def response_of(event: TurnEvent) -> gateway_pb2.ConverseResponse:
    match event:
        case Speech():
            speech = talker_pb2.Speech(
                first_frame=event.first_frame,
                codes=event.codes,
                first_sample=event.first_sample,
                pcm=event.pcm,
                text_tokens=event.text_tokens,
                spoken_again=event.spoken_again,
            )
            return gateway_pb2.ConverseResponse(speech=speech)
        case Text():
            text = thinker_pb2.GeneratedText(
                token_ids=event.token_ids,
                content_delta=event.content_delta,
                reasoning_delta=event.reasoning_delta,
                is_last=event.is_last,
                cached_tokens=event.cached_tokens,
                logprobs=map(_token_logprobs, event.logprobs),
            )
            return gateway_pb2.ConverseResponse(text=text)
        case TurnStarted():
            started = gateway_pb2.ConverseStarted(request_id=event.request_id, prompt_token_ids=event.prompt_token_ids)
            return gateway_pb2.ConverseResponse(started=started)
        case SpeechStarted():
            speech_started = talker_pb2.SpeakStarted(
                sample_rate=event.sample_rate,
                samples_per_frame=event.samples_per_frame,
                codebooks=event.codebooks,
                seed=event.seed,
            )
            return gateway_pb2.ConverseResponse(speech_started=speech_started)
        case TurnDone():
            done = gateway_pb2.ConverseDone(
                finish_reason=_FINISHED[event.finish_reason],
                usage=_usage(event.usage),
                speech_end=_SPOKEN[event.speech_end],
                timings=_timings(event.timings),
                limit=event.limit,
                dropped_messages=event.dropped_messages,
                derailment=event.derailment.wire if event.derailment else talker_pb2.DERAILMENT_UNSPECIFIED,
                spoken_again=event.spoken_again,
            )
            return gateway_pb2.ConverseResponse(done=done)


def _token_logprobs(of: TokenLogprobs) -> thinker_pb2.TokenLogprobs:
    return thinker_pb2.TokenLogprobs(token=_logprob(of.token), top=map(_logprob, of.top))


def _logprob(of: Logprob) -> thinker_pb2.Logprob:
    return thinker_pb2.Logprob(token_id=of.token_id, logprob=of.logprob, text=of.text)


def _usage(usage: Usage) -> gateway_pb2.Usage:
    prompt = usage.prompt
    return gateway_pb2.Usage(
        prompt=preprocess_pb2.PromptUsage(
            text_tokens=prompt.text_tokens,
            image_tokens=prompt.image_tokens,
            audio_tokens=prompt.audio_tokens,
            video_tokens=prompt.video_tokens,
        ),
        cached_tokens=usage.cached_tokens,
        completion_text_tokens=usage.completion_text_tokens,
        completion_audio_tokens=usage.completion_audio_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _timings(timings: TurnTimings) -> gateway_pb2.TurnTimings:
    return gateway_pb2.TurnTimings(
        prepare_ms=timings.prepare_ms,
        thinker_first_token_ms=timings.thinker_first_token_ms,
        talker_first_frame_ms=timings.talker_first_frame_ms,
        first_audio_ms=timings.first_audio_ms,
        queue_ms=timings.queue_ms,
        total_ms=timings.total_ms,
    )

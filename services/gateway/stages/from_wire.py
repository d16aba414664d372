"""From the messages of the stages' workers to the domain's types."""

from __future__ import annotations

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.derailments import Derailment
from services.gateway.stages.to_wire import MODALITIES
from services.gateway.turn.events import (
    FinishReason,
    Logprob,
    Speech,
    SpeechEnd,
    SpeechStarted,
    Text,
    TokenLogprobs,
)
from services.gateway.turn.prompt import BlobRef, Feature, MediaGrid, Prepared, PromptUsage, TensorRef
from services.gateway.turn.worker_calls import GenerateEvent, SpeakEvent, SpeechDone, TextDone

_MODALITIES = {wire: modality for modality, wire in MODALITIES.items()}
_FINISHED = {
    thinker_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    thinker_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
}
_SPOKEN = {
    talker_pb2.SPEECH_END_STOP: SpeechEnd.STOP,
    talker_pb2.SPEECH_END_LENGTH: SpeechEnd.LENGTH,
    talker_pb2.SPEECH_END_NO_TEXT: SpeechEnd.NO_TEXT,
}


def prepared(response: preprocess_pb2.PrepareResponse) -> Prepared:
    usage = response.usage
    return Prepared(
        token_ids=tuple(response.prompt_token_ids),
        features=tuple(map(_feature, response.features)),
        usage=PromptUsage(usage.text_tokens, usage.image_tokens, usage.audio_tokens, usage.video_tokens),
        said_token_ids=tuple(response.said_token_ids),
        media_bytes=response.media_bytes,
        fingerprint=response.fingerprint,
        decode_price_s=response.decode_price_s,
    )


def _feature(feature: preprocess_pb2.Feature) -> Feature:
    grid = feature.grid
    return Feature(
        modality=_MODALITIES[feature.modality],
        hash=feature.hash,
        offset=feature.offset,
        length=feature.length,
        is_embed=feature.is_embed,
        kwargs=_blob(feature.kwargs),
        grid=MediaGrid(grid.t, grid.h, grid.w, grid.seconds_per_grid) if feature.HasField("grid") else None,
    )


def generate_event(response: thinker_pb2.GenerateResponse) -> GenerateEvent | None:
    """Return None for an event that this version does not know."""
    match response.WhichOneof("event"):
        case "text":
            text = response.text
            return Text(
                token_ids=tuple(text.token_ids),
                content_delta=text.content_delta,
                reasoning_delta=text.reasoning_delta,
                is_last=text.is_last,
                cached_tokens=text.cached_tokens,
                logprobs=tuple(map(_token_logprobs, text.logprobs)),
            )
        case "hidden_states":
            return _tensor(response.hidden_states.hidden_states)
        case "prompt":
            token_ids = tuple(response.prompt.token_ids)
            return Prepared(token_ids, usage=PromptUsage(text_tokens=len(token_ids)))
        case "done":
            return _text_done(response.done)
        case None:
            return None


def _text_done(done: thinker_pb2.GenerateDone) -> TextDone | None:
    reason = _FINISHED.get(done.finish_reason)
    if reason is None:
        return None
    token_id = done.stop_token_id if done.HasField("stop_token_id") else None
    return TextDone(reason, done.reasoning_tokens, done.stop_string or token_id)


def _token_logprobs(of: thinker_pb2.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(_logprob(of.token), tuple(map(_logprob, of.top)))


def _logprob(of: thinker_pb2.Logprob) -> Logprob:
    return Logprob(of.token_id, of.logprob, of.text)


def speak_event(response: talker_pb2.SpeakResponse) -> SpeakEvent | None:
    """Return None for an event that this version does not know."""
    match response.WhichOneof("event"):
        case "speech":
            speech = response.speech
            return Speech(
                first_frame=speech.first_frame,
                codes=tuple(speech.codes),
                first_sample=speech.first_sample,
                pcm=speech.pcm,
                text_tokens=speech.text_tokens,
                spoken_again=speech.spoken_again,
            )
        case "started":
            started = response.started
            return SpeechStarted(started.sample_rate, started.samples_per_frame, started.codebooks, started.seed)
        case "done":
            done = response.done
            return SpeechDone(
                reason=_SPOKEN.get(done.reason),
                frames=done.frames,
                first_frame_ms=done.first_frame_ms,
                talker_ms_per_frame=done.talker_ms_per_frame,
                predictor_ms_per_frame=done.predictor_ms_per_frame,
                codec_ms_per_frame=done.codec_ms_per_frame,
                derailment=Derailment.of(done.derailment),
                spoken_again=done.spoken_again,
            )
        case None:
            return None


def _tensor(tensor: common_pb2.TensorRef) -> TensorRef:
    return TensorRef(_blob(tensor.blob), tensor.dtype, tuple(tensor.shape))


def _blob(blob: common_pb2.BlobRef) -> BlobRef:
    return BlobRef(blob.owner, blob.key, blob.size_bytes)

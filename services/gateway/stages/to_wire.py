"""From the domain's types to the messages of the stages' workers."""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.v1 import common_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.gateway.turn.conversation import (
    AudioPart,
    FileSource,
    ImagePart,
    InlineSource,
    MediaSource,
    Message,
    Part,
    TextPart,
    ToolCall,
    UrlSource,
    VideoPart,
)
from services.gateway.turn.intent import Sampling, SpeechSampling
from services.gateway.turn.prompt import BlobRef, Feature, MediaGrid, Modality, TensorRef
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.structure import Choices, Grammar, JsonObject, JsonSchema, Regex, Structure, ToolCalls
from services.gateway.turn.worker_calls import CutCall, GenerateCall, PrepareCall, SpeakCall, SpokenText

MODALITIES = {
    Modality.IMAGE: common_pb2.MODALITY_IMAGE,
    Modality.AUDIO: common_pb2.MODALITY_AUDIO,
    Modality.VIDEO: common_pb2.MODALITY_VIDEO,
}


def prepare_start(call: PrepareCall) -> preprocess_pb2.PrepareStart:
    request = call.request
    return preprocess_pb2.PrepareStart(
        context=_context(request),
        lease=call.grant.lease,
        model=request.model.name,
        messages=map(_message, request.intent.messages),
        use_audio_in_video=request.intent.use_audio_in_video,
        said=request.intent.said,
        tools_json=request.intent.tools,
    )


def cut_start(call: CutCall) -> preprocess_pb2.CutStart:
    return preprocess_pb2.CutStart(
        context=_context(call.request),
        lease=call.grant.lease,
        model=call.request.model.name,
        path=call.request.intent.names.messages,
        piece_s=call.piece_s,
        from_sample=call.from_sample,
    )


def generate_request(call: GenerateCall) -> thinker_pb2.GenerateRequest:
    intent, is_rendered = call.request.intent, bool(call.prepared.token_ids)
    return thinker_pb2.GenerateRequest(
        context=_context(call.request, call.failed_engines),
        lease=call.grant.lease,
        model=call.request.model.name,
        prompt_token_ids=call.prepared.token_ids,
        features=map(_feature, call.prepared.features),
        sampling=_sampling(call.sampling),
        generated_token_ids=call.generated_token_ids,
        wants_hidden_states=call.wants_hidden_states,
        messages=() if is_rendered else map(_message, intent.messages),
        tools_json="" if is_rendered else intent.tools,
        structure=_structure(intent.structure) if intent.structure is not None else None,
    )


def speak_request(call: SpeakCall) -> talker_pb2.SpeakRequest:
    request, prepared, speech = call.request, call.prepared, call.speech
    start = talker_pb2.SpeakStart(
        context=_context(request, call.failed_engines),
        lease=call.grant.lease,
        model=request.model.name,
        prompt_token_ids=prepared.token_ids,
        image_grids=_grids(prepared.features, Modality.IMAGE),
        video_grids=_grids(prepared.features, Modality.VIDEO),
        hidden_states=_tensor(call.hidden_states) if call.hidden_states is not None else None,
        voice=speech.voice,
        sampling=_speech_sampling(speech.sampling, call.seed),
        max_frames=speech.max_frames,
        delivered_codes=call.delivered_codes,
        use_audio_in_video=request.intent.use_audio_in_video,
        spoken_again=call.spoken_again,
    )
    return talker_pb2.SpeakRequest(start=start)


def text_request(text: SpokenText) -> talker_pb2.SpeakRequest:
    return talker_pb2.SpeakRequest(text=talker_pb2.SpokenText(token_ids=text.token_ids, is_last=text.is_last))


def _context(request: TurnRequest, failed_engines: int = 0) -> common_pb2.RequestContext:
    return common_pb2.RequestContext(
        request_id=request.request_id,
        tenant=request.principal.tenant,
        priority=request.priority,
        deadline_unix_ms=request.deadline_unix_ms,
        affinity=request.intent.affinity,
        failed_engines=failed_engines,
    )


def _message(message: Message) -> preprocess_pb2.Message:
    return preprocess_pb2.Message(
        role=message.role,
        parts=map(_part, message.parts),
        tool_calls=map(_tool_call, message.tool_calls),
        tool_call_id=message.tool_call_id,
    )


def _tool_call(call: ToolCall) -> preprocess_pb2.ToolCall:
    return preprocess_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments, path=call.path)


def _part(part: Part) -> preprocess_pb2.Part:
    match part:
        case TextPart():
            return preprocess_pb2.Part(path=part.path, text=part.text)
        case ImagePart():
            image = preprocess_pb2.ImagePart(
                source=_source(part.source), min_pixels=part.min_pixels, max_pixels=part.max_pixels
            )
            return preprocess_pb2.Part(path=part.path, image=image)
        case AudioPart():
            return preprocess_pb2.Part(path=part.path, audio=preprocess_pb2.AudioPart(source=_source(part.source)))
        case VideoPart():
            return preprocess_pb2.Part(path=part.path, video=_video(part))


def _video(part: VideoPart) -> preprocess_pb2.VideoPart:
    source, frames = (part.source, ()) if isinstance(part.source, MediaSource) else (None, part.source)
    return preprocess_pb2.VideoPart(
        source=_source(source) if source is not None else None,
        frames=map(_source, frames),
        fps=part.fps,
        min_pixels=part.min_pixels,
        max_pixels=part.max_pixels,
        total_pixels=part.total_pixels,
        use_audio=part.use_audio,
    )


def _source(source: MediaSource) -> preprocess_pb2.MediaSource:
    match source:
        case UrlSource():
            return preprocess_pb2.MediaSource(url=source.url, declared_format=source.declared_format)
        case InlineSource():
            return preprocess_pb2.MediaSource(inline_index=source.index, declared_format=source.declared_format)
        case FileSource():
            return preprocess_pb2.MediaSource(local_path=source.path, declared_format=source.declared_format)


def _sampling(sampling: Sampling) -> thinker_pb2.ThinkerSampling:
    return thinker_pb2.ThinkerSampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        ignore_eos=sampling.ignore_eos,
        logit_bias=sampling.logit_bias,
        top_logprobs=sampling.top_logprobs,
    )


def _structure(structure: Structure) -> thinker_pb2.Structure:
    path = structure.path
    match structure.form:
        case JsonSchema(schema):
            return thinker_pb2.Structure(path=path, json_schema=schema)
        case JsonObject():
            return thinker_pb2.Structure(path=path, json_object=True)
        case Regex(pattern):
            return thinker_pb2.Structure(path=path, regex=pattern)
        case Choices(texts):
            return thinker_pb2.Structure(path=path, choices=thinker_pb2.Choices(texts=texts))
        case Grammar(text):
            return thinker_pb2.Structure(path=path, grammar=text)
        case ToolCalls():
            return thinker_pb2.Structure(path=path, tool_calls=_tool_calls(structure.form))


def _tool_calls(calls: ToolCalls) -> thinker_pb2.ToolCalls:
    tools = [
        thinker_pb2.ToolSignature(name=tool.name, parameters_schema=tool.parameters_schema) for tool in calls.tools
    ]
    return thinker_pb2.ToolCalls(
        tools=tools, required=calls.required, at_most_one=calls.at_most_one, or_json_schema=calls.or_schema
    )


def _speech_sampling(sampling: SpeechSampling, seed: int | None) -> talker_pb2.TalkerSampling:
    """`seed`: of the talker that began the speech, which may have drawn it."""
    return talker_pb2.TalkerSampling(
        do_sample=sampling.do_sample,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed if seed is None else seed,
    )


def _feature(feature: Feature) -> preprocess_pb2.Feature:
    return preprocess_pb2.Feature(
        modality=MODALITIES[feature.modality],
        hash=feature.hash,
        offset=feature.offset,
        length=feature.length,
        is_embed=feature.is_embed,
        kwargs=_blob(feature.kwargs),
        grid=_grid(feature.grid) if feature.grid is not None else None,
    )


def _grids(features: Iterable[Feature], modality: Modality) -> list[common_pb2.MediaGrid]:
    return [_grid(f.grid) for f in features if f.modality is modality and f.grid is not None]


def _grid(grid: MediaGrid) -> common_pb2.MediaGrid:
    return common_pb2.MediaGrid(t=grid.t, h=grid.h, w=grid.w, seconds_per_grid=grid.seconds_per_grid)


def _tensor(tensor: TensorRef) -> common_pb2.TensorRef:
    return common_pb2.TensorRef(blob=_blob(tensor.blob), dtype=tensor.dtype, shape=tensor.shape)


def _blob(blob: BlobRef) -> common_pb2.BlobRef:
    return common_pb2.BlobRef(owner=blob.owner, key=blob.key, size_bytes=blob.size_bytes)

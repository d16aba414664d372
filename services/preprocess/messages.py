"""Builds the gateway's PrepareResponse from a prepared prompt."""

from __future__ import annotations

from antiphon.v1 import common_pb2, preprocess_pb2
from services.preprocess.features import MediaTokens
from services.preprocess.preparer import Feature, Prepared
from services.preprocess.prompt import pack_bits

MODALITIES = {
    "image": common_pb2.MODALITY_IMAGE,
    "audio": common_pb2.MODALITY_AUDIO,
    "video": common_pb2.MODALITY_VIDEO,
}


def response_of(prepared: Prepared, tokens: MediaTokens, address: str) -> preprocess_pb2.PrepareResponse:
    """Return the response. `address` is where the features can be fetched."""
    timings = prepared.timings
    return preprocess_pb2.PrepareResponse(
        prompt_token_ids=prepared.token_ids,
        features=[_feature(feature, address) for feature in prepared.features],
        usage=_usage(prepared.token_ids, tokens),
        timings=preprocess_pb2.PrepareTimings(
            fetch_ms=timings.fetch_s * 1000,
            decode_ms=timings.decode_s * 1000,
            process_ms=timings.process_s * 1000,
            cached_items=timings.cached_items,
            items=timings.items,
        ),
    )


def _feature(feature: Feature, address: str) -> preprocess_pb2.Feature:
    grid = None
    if feature.shape.grid is not None:
        t, h, w = feature.shape.grid
        grid = common_pb2.MediaGrid(t=t, h=h, w=w, seconds_per_grid=feature.shape.seconds_per_grid)
    return preprocess_pb2.Feature(
        modality=MODALITIES[feature.modality],
        hash=feature.key,
        offset=feature.span.offset,
        length=feature.span.length,
        is_embed=pack_bits(feature.span.is_embed),
        kwargs=common_pb2.BlobRef(owner=address, key=feature.key, size_bytes=feature.size_bytes),
        grid=grid,
    )


def _usage(token_ids: list[int], tokens: MediaTokens) -> preprocess_pb2.PromptUsage:
    image, audio, video = (token_ids.count(token) for token in (tokens.image, tokens.audio, tokens.video))
    return preprocess_pb2.PromptUsage(
        text_tokens=len(token_ids) - image - audio - video,
        image_tokens=image,
        audio_tokens=audio,
        video_tokens=video,
    )

"""Builds the gateway's PrepareResponse from a prepared prompt."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from antiphon.v1 import common_pb2, preprocess_pb2
from services.common.channels import CHUNK_BYTES
from services.preprocess.decoding.pool import Piece
from services.preprocess.features import MediaTokens
from services.preprocess.preparer import Feature, Prepared
from services.preprocess.prompt import pack_bits

MODALITIES = {
    "image": common_pb2.MODALITY_IMAGE,
    "audio": common_pb2.MODALITY_AUDIO,
    "video": common_pb2.MODALITY_VIDEO,
}


def response_of(
    prepared: Prepared, tokens: MediaTokens, fingerprint: str, address: str
) -> preprocess_pb2.PrepareResponse:
    """Return the response. `fingerprint` is that of the extractor, `address` where the features can be fetched."""
    timings = prepared.timings
    return preprocess_pb2.PrepareResponse(
        prompt_token_ids=prepared.token_ids,
        features=[_feature(feature, address) for feature in prepared.features],
        usage=_usage(prepared, tokens),
        said_token_ids=prepared.said_token_ids,
        timings=preprocess_pb2.PrepareTimings(
            fetch_ms=timings.fetch_s * 1000,
            decode_ms=timings.decode_s * 1000,
            process_ms=timings.process_s * 1000,
            cached_items=timings.cached_items,
            items=timings.items,
        ),
        media_bytes=prepared.media_bytes,
        fingerprint=fingerprint,
        decode_price_s=prepared.decode_price_s,
    )


def cut_responses(piece: Piece) -> Generator[preprocess_pb2.CutResponse]:
    """Yield the parts of a piece of a recording."""
    samples = np.ascontiguousarray(piece.samples, "<f4").data.cast("B")
    for begin in range(0, len(samples), CHUNK_BYTES):
        end = begin + CHUNK_BYTES
        yield preprocess_pb2.CutResponse(
            samples=bytes(samples[begin:end]), ends_piece=end >= len(samples), recording_s=piece.recording_s
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


def _usage(prepared: Prepared, tokens: MediaTokens) -> preprocess_pb2.PromptUsage:
    token_ids = prepared.token_ids
    image, audio, video = (token_ids.count(token) for token in (tokens.image, tokens.audio, tokens.video))
    return preprocess_pb2.PromptUsage(
        text_tokens=len(token_ids) - image - audio - video + len(prepared.said_token_ids),
        image_tokens=image,
        audio_tokens=audio,
        video_tokens=video,
    )

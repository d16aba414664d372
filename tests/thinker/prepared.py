"""Prompts prepared by vLLM's own renderer, as the preprocess service hands them over."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm.v1.serial_utils import MsgpackEncoder

from antiphon.v1 import common_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import Gone
from tests.fixtures.oracle import Oracle
from tests.talker.cases import Case

_MODALITIES = {
    "image": common_pb2.MODALITY_IMAGE,
    "audio": common_pb2.MODALITY_AUDIO,
    "video": common_pb2.MODALITY_VIDEO,
}


@dataclass
class Prepared:
    """A prepared prompt. `blobs` holds the features' bytes by BlobRef.key."""

    prompt_token_ids: list[int]
    features: list[preprocess_pb2.Feature] = field(default_factory=list[preprocess_pb2.Feature])
    blobs: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def request(self, request_id: str, model: str = "tiny", **fields: Any) -> thinker_pb2.GenerateRequest:
        """Return a GenerateRequest; `sampling` may be a dict."""
        sampling: dict[str, Any] = {"temperature": 0, **fields.pop("sampling", {})}
        tenant = fields.pop("tenant", "tenant-a")
        return thinker_pb2.GenerateRequest(
            context=common_pb2.RequestContext(
                request_id=request_id, tenant=tenant, deadline_unix_ms=fields.pop("deadline_unix_ms", 0)
            ),
            model=model,
            prompt_token_ids=self.prompt_token_ids,
            features=self.features,
            sampling=thinker_pb2.ThinkerSampling(**sampling),
            **fields,
        )


class Owner:
    """The owner of features, as a `Pull`: it has blobs by key, and records what was pulled."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.pulled: list[str] = []

    async def __call__(self, ref: common_pb2.BlobRef) -> bytes:
        self.pulled.append(ref.key)
        if ref.key not in self.blobs:
            raise Gone("a tensor of this request is no longer held", code="blob_gone")
        return self.blobs[ref.key]


def prepare(renderer: Any, oracle: Oracle, case: Case, owner: str = "nobody:1") -> Prepared:
    """Prepare `case` with vLLM's renderer."""
    text = oracle.processor.apply_chat_template(list(case.messages), tokenize=False, add_generation_prompt=True)
    media: dict[str, Any] = {}
    if case.media.images:
        media["image"] = list(case.media.images)
    if case.media.audios:
        media["audio"] = list(case.media.audios)
    if case.media.videos:
        media["video"] = list(case.media.videos)
    prompt: dict[str, Any] = {"prompt": text, "multi_modal_data": media}
    options = {"use_audio_in_video": True} if case.use_audio_in_video else {}
    prompt["mm_processor_kwargs"] = {**options, **{k: v for k, v in case.media.processor_kwargs.items() if k == "fps"}}
    with warnings.catch_warnings(action="ignore"):  # transformers gives a torch tensor to numpy.arange
        (rendered,) = renderer.render_cmpl([prompt])
    # vLLM rounds times differently from transformers, which may change the order of sound and picture.
    ids = oracle.inputs(case.messages, case.media, use_audio_in_video=case.use_audio_in_video)["input_ids"][0].numpy()
    assert ids.shape == (len(rendered["prompt_token_ids"]),)
    prepared = Prepared(ids.tolist())
    if rendered["type"] != "multimodal":
        return prepared
    encoder = MsgpackEncoder(size_threshold=2**62)
    for modality, items in rendered["mm_kwargs"].items():
        for index, item in enumerate(items):
            place, hash_ = rendered["mm_placeholders"][modality][index], rendered["mm_hashes"][modality][index]
            key = f"{modality}-{index}-{hash_}"
            span = ids[place.offset : place.offset + place.length]
            is_embed = span == getattr(oracle.config.thinker_config, f"{modality}_token_id")
            encoded: Any = encoder.encode(item)[0]
            data = bytes(encoded)
            prepared.blobs[key] = data
            prepared.features.append(
                preprocess_pb2.Feature(
                    modality=_MODALITIES[modality],
                    hash=hash_,
                    offset=place.offset,
                    length=place.length,
                    is_embed=b"" if place.is_embed is None else np.packbits(is_embed).tobytes(),
                    kwargs=common_pb2.BlobRef(owner=owner, key=key, size_bytes=len(data)),
                )
            )
    return prepared

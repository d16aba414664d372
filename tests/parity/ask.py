"""Ask one case through the gateway's Converse, or ask the oracle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.channels import CHUNK_BYTES
from tests.fixtures.oracle import Oracle, OracleMedia, OracleResult, TalkerOptions, ThinkerOptions
from tests.fixtures.wait import HANGS_AFTER_S
from tests.parity.cases import Case
from tests.parity.media import Film, Medium, Picture, Sound

TEMPLATE_TYPE = {Sound: "audio", Picture: "image", Film: "video"}


@dataclass
class ParityAnswer:
    """An answer: thinker tokens, codes [frames × codebooks] as one list, 16-bit samples, text, and the end."""

    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    codes: list[int] = field(default_factory=list[int])
    pcm: bytes = b""
    done: gateway_pb2.ConverseDone | None = None

    @property
    def samples(self) -> NDArray[np.float32]:
        """Return float samples in [-1, 1]."""
        return np.frombuffer(self.pcm, dtype="<i2").astype(np.float32) / np.float32(32767)


async def converse(address: str, api_key: str, model: str, case: Case) -> ParityAnswer:
    """Ask the gateway at `address`. Raise grpc.aio.AioRpcError."""
    answer = ParityAnswer()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        async for response in stub.Converse(requests_of(model, case), metadata=metadata, timeout=HANGS_AFTER_S):
            match response.WhichOneof("event"):
                case "text":
                    answer.token_ids += response.text.token_ids
                    answer.text += response.text.content_delta
                case "speech":
                    speech = response.speech
                    assert speech.first_frame * 16 == len(answer.codes), "frames come in order, each once"
                    assert speech.first_sample * 2 == len(answer.pcm), "samples come in order, each once"
                    answer.codes += speech.codes
                    answer.pcm += speech.pcm
                case "done":
                    answer.done = response.done
                case _:
                    pass
    return answer


async def requests_of(model: str, case: Case) -> AsyncIterator[gateway_pb2.ConverseRequest]:
    """Return the messages of one Converse call: the start, then the media."""
    files: list[bytes] = []
    messages: list[preprocess_pb2.Message] = []
    for turn in case.turns:
        parts: list[preprocess_pb2.Part] = []
        for part in turn.parts:
            if isinstance(part, str):
                parts.append(preprocess_pb2.Part(text=part))
                continue
            source = preprocess_pb2.MediaSource(inline_index=len(files))
            files.append(part.file)
            match part:
                case Sound():
                    parts.append(preprocess_pb2.Part(audio=preprocess_pb2.AudioPart(source=source)))
                case Picture():
                    parts.append(preprocess_pb2.Part(image=preprocess_pb2.ImagePart(source=source)))
                case Film():
                    parts.append(preprocess_pb2.Part(video=preprocess_pb2.VideoPart(source=source, fps=part.fps)))
        messages.append(preprocess_pb2.Message(role=turn.role, parts=parts))
    modalities = [common_pb2.MODALITY_TEXT, *([common_pb2.MODALITY_AUDIO] if case.voice else [])]
    yield gateway_pb2.ConverseRequest(
        start=gateway_pb2.ConverseStart(
            model=model,
            messages=messages,
            output_modalities=modalities,
            voice=case.voice,
            sampling=thinker_pb2.ThinkerSampling(
                temperature=case.temperature,
                top_k=case.top_k,
                top_p=case.top_p,
                seed=case.seed,
                max_tokens=case.max_tokens,
            ),
            talker=talker_pb2.TalkerSampling(do_sample=case.talker_sampled, seed=case.talker_seed),
            use_audio_in_video=case.use_audio_in_video,
            inline_count=len(files),
            max_frames=case.max_frames,
        )
    )
    for index, file in enumerate(files):
        for start in range(0, len(file), CHUNK_BYTES):
            chunk = preprocess_pb2.InlineChunk(inline_index=index, data=file[start : start + CHUNK_BYTES])
            yield gateway_pb2.ConverseRequest(chunk=chunk)


def expected(oracle: Oracle, case: Case) -> OracleResult:
    """Return transformers' answer."""
    media: list[Medium] = [p for turn in case.turns for p in turn.parts if not isinstance(p, str)]
    sounds = [m for m in media if isinstance(m, Sound)]
    films = [m for m in media if isinstance(m, Film)]
    if case.use_audio_in_video:
        sounds += [film.sound for film in films if film.sound]
    messages = [{"role": turn.role, "content": [_template_part(part) for part in turn.parts]} for turn in case.turns]
    return oracle.generate(
        messages,
        OracleMedia(
            images=[m.decoded for m in media if isinstance(m, Picture)],
            audios=[m.decoded for m in sounds],
            videos=[film.decoded for film in films],
            # Without it the processor assumes one frame per second.
            processor_kwargs={"fps": films[0].fps} if films else {},
        ),
        voice=case.voice or None,
        thinker=ThinkerOptions(
            max_new_tokens=case.max_tokens,
            temperature=case.temperature,
            top_k=case.top_k,
            top_p=case.top_p,
            seed=case.seed,
        ),
        talker=TalkerOptions(do_sample=case.talker_sampled, seed=case.talker_seed, max_frames=case.max_frames),
        use_audio_in_video=case.use_audio_in_video,
    )


def _template_part(part: str | Medium) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = TEMPLATE_TYPE[type(part)]
    return {"type": kind, kind: "here"}

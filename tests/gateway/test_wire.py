"""What Converse's clients send reaches the stages' workers as it is, and what workers send reaches the clients."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.queues.tickets import Grant, QueueName, TicketSpec
from services.gateway.converse.intent import intent_from, messages_from
from services.gateway.converse.write import response_of
from services.gateway.http.chat.structure.translate import AskedForm
from services.gateway.stages import from_wire, to_wire
from services.gateway.turn.events import FinishReason, TurnDone, TurnStarted, TurnTimings, Usage
from services.gateway.turn.held_media import HeldMedia
from services.gateway.turn.intent import Principal, SpeechOptions
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.prompt import PromptUsage
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.worker_calls import GenerateCall, PrepareCall, SpeakCall, SpeechDone, TextDone

GRANT = Grant(
    QueueName("thinker", "m"), TicketSpec("req_1", "acme"), "ticket", "lease", "worker", "host:1", 5.0, 0, 0.0
)
LEASE = common_pb2.Lease(lease_id="lease", worker_id="worker")
TERMS: dict[str, Any] = {
    "request_id": "req_1",
    "tenant": "acme",
    "priority": -1,
    "deadline_unix_ms": 7,
    "affinity": "conversation",
}
CONTEXT = common_pb2.RequestContext(**TERMS)
SUSPECT = common_pb2.RequestContext(**TERMS, failed_engines=1)
INLINE = preprocess_pb2.MediaSource(inline_index=0, declared_format="wav")
URL = preprocess_pb2.MediaSource(url="https://example.org/a", declared_format="image/png")
FILE = preprocess_pb2.MediaSource(local_path="/media/a")
BLOB = common_pb2.BlobRef(owner="host:2", key="k", size_bytes=9)
IMAGE_GRID = common_pb2.MediaGrid(t=1, h=2, w=4)
VIDEO_GRID = common_pb2.MediaGrid(t=2, h=6, w=8, seconds_per_grid=0.5)
Contents = dict[str, Any]
CONTENTS: list[Contents] = [
    {"text": "hello"},
    {"image": preprocess_pb2.ImagePart(source=URL, min_pixels=0, max_pixels=9)},
    {"audio": preprocess_pb2.AudioPart(source=INLINE)},
    {"video": preprocess_pb2.VideoPart(source=FILE, fps=0.5, max_pixels=2, total_pixels=3, use_audio=True)},
    {"video": preprocess_pb2.VideoPart(frames=[URL, INLINE])},
]
PREPARED = preprocess_pb2.PrepareResponse(
    prompt_token_ids=[1, 2, 3],
    features=[
        preprocess_pb2.Feature(
            modality=common_pb2.MODALITY_AUDIO, hash="a", offset=1, length=2, is_embed=b"\xc0", kwargs=BLOB
        ),
        preprocess_pb2.Feature(modality=common_pb2.MODALITY_IMAGE, hash="b", length=3, kwargs=BLOB, grid=IMAGE_GRID),
        preprocess_pb2.Feature(modality=common_pb2.MODALITY_VIDEO, hash="c", length=4, kwargs=BLOB, grid=VIDEO_GRID),
    ],
    usage=preprocess_pb2.PromptUsage(text_tokens=1, image_tokens=2, audio_tokens=3, video_tokens=4),
    decode_price_s=0.5,
)
SAMPLINGS = [
    thinker_pb2.ThinkerSampling(),
    thinker_pb2.ThinkerSampling(
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        min_p=0.25,
        presence_penalty=1.5,
        frequency_penalty=-1.5,
        repetition_penalty=1.25,
        seed=0,
        stop=["a", "b"],
        stop_token_ids=[4, 5],
        max_tokens=6,
        min_tokens=0,
        ignore_eos=False,
        logit_bias={7: 0.5},
    ),
]
TALKERS = [
    talker_pb2.TalkerSampling(),
    talker_pb2.TalkerSampling(do_sample=False, temperature=0.5, top_k=1, top_p=0.75, repetition_penalty=1.5, seed=0),
]


def asked(start: gateway_pb2.ConverseStart) -> TurnRequest:
    intent = intent_from(start, AskedForm(), messages_from(start), HeldMedia([b"x"]), arrived_s=0.0, timeout_s=None)
    return TurnRequest("req_1", Principal("acme", "acme"), intent, Model("m", ModelKind.INSTRUCT, 1000), 7)


def a_start(**fields: Any) -> gateway_pb2.ConverseStart:
    return gateway_pb2.ConverseStart(priority=-1, conversation_id="conversation", **fields)


def test_messages_reach_preprocess_with_their_paths() -> None:
    parts = [preprocess_pb2.Part(**content) for content in CONTENTS]
    start = a_start(messages=[preprocess_pb2.Message(role="user", parts=parts)], use_audio_in_video=True)
    paths = [f"messages[0].parts[{i}]" for i in range(len(parts))]
    placed = [preprocess_pb2.Part(path=path, **content) for path, content in zip(paths, CONTENTS, strict=True)]
    assert to_wire.prepare_start(PrepareCall(GRANT, asked(start), 1.0)) == preprocess_pb2.PrepareStart(
        context=CONTEXT,
        lease=LEASE,
        model="m",
        messages=[preprocess_pb2.Message(role="user", parts=placed)],
        use_audio_in_video=True,
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_prompt_and_sampling_reach_the_thinker(sampling: thinker_pb2.ThinkerSampling) -> None:
    request = asked(a_start(sampling=sampling))
    call = GenerateCall(
        GRANT, 1, request, 1.0, from_wire.prepared(PREPARED), request.intent.sampling, [8, 9], wants_hidden_states=True
    )
    assert to_wire.generate_request(call) == thinker_pb2.GenerateRequest(
        context=SUSPECT,
        lease=LEASE,
        model="m",
        prompt_token_ids=[1, 2, 3],
        features=PREPARED.features,
        sampling=sampling,
        generated_token_ids=[8, 9],
        wants_hidden_states=True,
    )


@pytest.mark.parametrize("sampling", TALKERS)
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("frames", [{}, {"max_frames": 0}])
def test_speech_options_reach_the_talker(
    sampling: talker_pb2.TalkerSampling, seed: int | None, frames: dict[str, Any]
) -> None:
    speech = (common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO)
    request = asked(a_start(output_modalities=speech, voice="Ethan", talker=sampling, **frames))
    hidden = common_pb2.TensorRef(blob=BLOB, dtype="bfloat16", shape=[3, 4])
    told = from_wire.generate_event(
        thinker_pb2.GenerateResponse(hidden_states=thinker_pb2.HiddenStates(hidden_states=hidden))
    )
    options = request.intent.speech or SpeechOptions()
    call = SpeakCall(GRANT, 1, request, 1.0, options, from_wire.prepared(PREPARED), told, [1, 2], seed)  # type: ignore[arg-type]
    expected = talker_pb2.SpeakStart(
        context=SUSPECT,
        lease=LEASE,
        model="m",
        prompt_token_ids=[1, 2, 3],
        image_grids=[IMAGE_GRID],
        video_grids=[VIDEO_GRID],
        hidden_states=hidden,
        voice="Ethan",
        sampling=sampling,
        delivered_codes=[1, 2],
        **frames,
    )
    if seed is not None:
        expected.sampling.seed = seed
    assert to_wire.speak_request(call) == talker_pb2.SpeakRequest(start=expected)


TEXT = thinker_pb2.GeneratedText(token_ids=[1], content_delta="a", reasoning_delta="b", is_last=True, cached_tokens=3)
STARTED = talker_pb2.SpeakStarted(sample_rate=24_000, samples_per_frame=1920, codebooks=16, seed=-3)
SPEECH = talker_pb2.Speech(first_frame=1, codes=[2, 3], first_sample=4, pcm=b"\x05\x06", text_tokens=7, spoken_again=8)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (thinker_pb2.GenerateResponse(text=TEXT), gateway_pb2.ConverseResponse(text=TEXT)),
        (talker_pb2.SpeakResponse(started=STARTED), gateway_pb2.ConverseResponse(speech_started=STARTED)),
        (talker_pb2.SpeakResponse(speech=SPEECH), gateway_pb2.ConverseResponse(speech=SPEECH)),
    ],
)
def test_events_reach_the_client_as_workers_send_them(response: Message, told: Message) -> None:
    read: Any = from_wire.speak_event if isinstance(response, talker_pb2.SpeakResponse) else from_wire.generate_event
    assert response_of(read(response)) == told


@pytest.mark.parametrize("why", talker_pb2.Derailment.values())
def test_a_derailment_reaches_the_client(why: Any) -> None:
    done = talker_pb2.SpeakDone(derailment=why, spoken_again=3)
    spoken = from_wire.speak_event(talker_pb2.SpeakResponse(done=done))
    assert isinstance(spoken, SpeechDone)
    told = response_of(TurnDone(FinishReason.STOP, derailment=spoken.derailment, spoken_again=spoken.spoken_again)).done
    assert (told.derailment, told.spoken_again) == (why, 3)


@pytest.mark.parametrize("reason", [thinker_pb2.FINISH_REASON_STOP, thinker_pb2.FINISH_REASON_LENGTH])
@pytest.mark.parametrize("end", talker_pb2.SpeechEnd.values())
def test_the_end_reaches_the_client_with_its_usage(reason: Any, end: Any) -> None:
    done = thinker_pb2.GenerateDone(finish_reason=reason, reasoning_tokens=4)
    text = from_wire.generate_event(thinker_pb2.GenerateResponse(done=done))
    spoken = from_wire.speak_event(talker_pb2.SpeakResponse(done=talker_pb2.SpeakDone(reason=end)))
    assert isinstance(text, TextDone)
    assert isinstance(spoken, SpeechDone)
    usage = Usage(PromptUsage(1, 2, 3, 4), 5, 6, 7, text.reasoning_tokens)
    timings = TurnTimings(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert response_of(TurnDone(text.finish_reason, usage, spoken.reason, timings)).done == gateway_pb2.ConverseDone(
        finish_reason=reason,
        usage=gateway_pb2.Usage(
            prompt=PREPARED.usage,
            cached_tokens=5,
            completion_text_tokens=6,
            completion_audio_tokens=7,
            reasoning_tokens=4,
        ),
        speech_end=end,
        timings=gateway_pb2.TurnTimings(
            prepare_ms=1,
            thinker_first_token_ms=2,
            talker_first_frame_ms=3,
            first_audio_ms=4,
            queue_ms=5,
            total_ms=6,
        ),
    )
    started = response_of(TurnStarted("req_1", (1, 2))).started
    assert started == gateway_pb2.ConverseStarted(request_id="req_1", prompt_token_ids=[1, 2])


def test_events_of_a_later_version_are_passed_over() -> None:
    assert from_wire.generate_event(thinker_pb2.GenerateResponse()) is None
    assert from_wire.generate_event(thinker_pb2.GenerateResponse(done=thinker_pb2.GenerateDone())) is None
    assert from_wire.speak_event(talker_pb2.SpeakResponse()) is None

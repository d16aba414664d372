"""DashScope's realtime events over a socket, for what its SDK hides."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.common.key_scopes import Scope
from services.gateway.auth import ApiKey
from services.gateway.realtime.input_frames import MAX_FRAME_BYTES
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.asides import Asides
from tests.gateway.realtime.dashscope.talking import MODEL, Socket, encoded, jpeg, opened, url_of
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import PCM
from tests.gateway.realtime.test_server_vad import BEFORE, EAGER_OFF
from tests.gateway.responses.conftest import CALL, WEATHER, card
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import SaidStory
from tests.gateway.test_auth import sha256

KEPT: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    story = Asides(frames=4)
    async with scripted_stages(store.url, story, card=card(), workers=1, slots=8, **EAGER_OFF, **KEPT) as running:
        yield running
        await wait_until(running.clean)


async def closed(socket: Socket) -> tuple[int | None, str | None]:
    """Read to the end. Return why the server closed."""
    with suppress(ConnectionClosed):
        while True:
            await socket.next()
    return socket.connection.close_code, socket.connection.close_reason


async def test_the_session_and_its_options_are_shown(stages: Stages) -> None:
    tool = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "description", "parameters")}}
    async with opened(stages, modalities=["text"]) as socket:
        created = socket.events[0]["session"]
        assert (created["modalities"], created["object"]) == (["text", "audio"], "realtime.session")
        assert created["turn_detection"] == {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 800,
            "create_response": True,
            "interrupt_response": True,
        }
        formats = {side: {"format": {"type": "pcm", "sample_rate": rate}} for side, rate in _RATES.items()}
        assert created["audio"] == formats
        shown = await socket.update(
            turn_detection={"type": "server_vad", "threshold": 0.2, "silence_duration_ms": 300},
            max_tokens=50,
            tools=[tool],
            input_audio_transcription={"model": None, "language": "en", "corpus": {"text": "Oslo"}},
            sample_rate=8000,
            seed=-1,
            smooth_output=True,
            enable_search=False,
        )
        assert shown["turn_detection"]["threshold"] == 0.2
        assert shown["turn_detection"]["silence_duration_ms"] == 300
        assert (shown["max_tokens"], shown["modalities"]) == (50, ["text"])
        assert shown["tools"] == [tool]
        assert shown["input_audio_transcription"] == {"model": INSTRUCT.name, "language": "en", "prompt": "Oslo"}
        assert shown["audio"]["input"]["format"]["sample_rate"] == 8000
        for name in ("smart_turn", "semantic_vad"):
            shown = await socket.update(turn_detection={"type": name, "threshold": 0.2, "silence_duration_ms": 800})
            smart = {"type": "semantic_vad", "create_response": True, "interrupt_response": True}
            assert shown["turn_detection"] == smart
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        assert session.turn_detection is not None
        assert session.turn_detection.eagerness is not None


async def test_an_update_may_name_the_model_as_the_url_does(stages: Stages) -> None:
    async with opened(stages, f"?model={MODEL}") as socket:
        for name in (MODEL, MODEL.upper(), INSTRUCT.name):
            assert (await socket.update(model=name))["model"] == INSTRUCT.name
        # An alias of a kind that is not served.
        assert (await socket.refused(model="qwen3-omni-30b-a3b-captioner"))["param"] == "session.model"


_RATES = {"input": 16_000, "output": 24_000}


async def test_sampling_and_usage_have_their_names(stages: Stages) -> None:
    async with opened(stages, temperature=0.3, top_k=7, repetition_penalty=1.1, presence_penalty=0.5) as socket:
        await socket.append(PCM)
        await socket.ask("input_audio_buffer.commit", "conversation.item.created")
        done = (await socket.ask("response.create", "response.done", response={"seed": 5}))["response"]
        sampling = stages.calls("thinker")[0].sampling
        assert (round(sampling.temperature, 3), sampling.top_k, sampling.seed) == (0.3, 7, 5)
        assert (round(sampling.repetition_penalty, 3), sampling.presence_penalty) == (1.1, 0.5)
        usage = done["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens"] == sum(usage["input_tokens_details"].values()) - 2  # which were cached
        assert usage["input_tokens_details"]["video_tokens"] == 0
        assert usage["output_tokens_details"] == {"text_tokens": 9, "audio_tokens": 4}
        (part,) = done["output"][0]["content"]
        assert part == {"type": "audio", "transcript": stages.story.text, "text": stages.story.text}
        (added,) = [event for event in socket.events if event["type"] == "response.content_part.added"]
        assert added["part"] == {"type": "audio", "transcript": "", "text": ""}


async def test_functions_are_called(store: RedisServer) -> None:
    tool = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "parameters")}}
    async with scripted_stages(store.url, SaidStory(said=CALL), card=card(), workers=1, slots=8) as stages:
        async with opened(stages, tools=[tool], modalities=["text"]) as socket:
            words = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rain?"}]}
            await socket.ask("conversation.item.create", "conversation.item.created", item=words)
            whole = await socket.ask("response.create", "response.function_call_arguments.done")
            done = (await socket.until("response.done"))["response"]
            assert json.loads(whole["arguments"]) == {"city": "Oslo"}
            assert (done["output"][1]["type"], done["output"][1]["call_id"]) == ("function_call", whole["call_id"])
            output = {"type": "function_call_output", "call_id": whole["call_id"], "output": "Rain."}
            await socket.ask("conversation.item.create", "conversation.item.created", item=output)
        await wait_until(stages.clean)


async def test_mistakes_name_the_field(stages: Stages) -> None:
    async with opened(stages) as socket:
        for session, param, code in (
            ({"modalities": ["audio"]}, "session.modalities", "invalid_value"),
            ({"modalities": ["smell"]}, "session.modalities[0]", "invalid_value"),
            ({"turn_detection": {"threshold": 2}}, "session.turn_detection.threshold", "invalid_value"),
            ({"turn_detection": {"type": "magic"}}, "session.turn_detection.type", "invalid_value"),
            ({"input_audio_format": "opus"}, "session.input_audio_format", "invalid_value"),
            ({"enable_search": True}, "session.enable_search", "unsupported_parameter"),
            ({"translation": {"language": "en"}}, "session.translation", "unsupported_parameter"),
            ({"output_modalities": ["text"]}, "session.output_modalities", "unknown_parameter"),
            ({"max_tokens": 0}, "session.max_tokens", "invalid_value"),
            ({"model": "another"}, "session.model", "invalid_value"),
            ({"voice": "nobody"}, "voice", "invalid_voice"),
        ):
            error = await socket.refused(**session)
            assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error"), session
        cancel = await socket.error("response.cancel")
        assert cancel["code"] == "response_cancel_not_active"
        assert (await socket.error("nothing"))["param"] == "type"


async def test_frames_are_bounded_and_checked(stages: Stages) -> None:
    async with opened(stages) as socket:
        large = jpeg() + bytes(MAX_FRAME_BYTES)
        for image, code in (
            ("", "empty_media"),
            ("!", "invalid_base64"),
            (encoded(b"\x89PNG and so on"), "invalid_value"),
            (encoded(jpeg()[:20]), "invalid_value"),
            (encoded(jpeg()[:-2]), "invalid_value"),
            (encoded(large), "media_too_large"),
        ):
            error = await socket.error("input_image_buffer.append", image=image)
            assert (error["param"], error["code"]) == ("image", code)
        (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
        assert session.buffer.size_bytes == 0


async def test_the_key_is_checked_before_the_upgrade(stages: Stages) -> None:
    async def refusal(query: str = "", **headers: str) -> tuple[int, dict[str, str]]:
        with pytest.raises(InvalidStatus) as caught:
            async with connect(url_of(stages, query), additional_headers=headers, compression=None):
                pass
        response = caught.value.response
        body = json.loads(response.body or b"")
        assert body["request_id"] == response.headers["x-request-id"]
        return response.status_code, body

    status, body = await refusal()
    assert (status, body["code"]) == (401, "InvalidApiKey")
    assert body.keys() == {"code", "message", "request_id"}
    assert (await refusal(authorization="Bearer wrong"))[1]["code"] == "InvalidApiKey"
    key = f"Bearer {API_KEY}"
    status, body = await refusal("?model=none", authorization=key)
    assert (status, body["code"]) == (404, "Model.NotExist")
    assert (await refusal("?session_id=sess_none", authorization=key))[0] == 404
    keys = [ApiKey(bytes.fromhex(sha256("chat-key")), "acme", "k1", frozenset({Scope.CHAT}))]
    stages.gateway.gateway.readiness._keys.replace(keys)  # pyright: ignore[reportPrivateUsage]
    status, body = await refusal(authorization="Bearer chat-key")
    assert (status, body["code"]) == (403, "AccessDenied")


# The end


async def test_finishing_ends_the_turn_and_gives_its_answer(stages: Stages) -> None:
    detection = {"type": "server_vad"}
    async with opened(stages, turn_detection=detection, input_audio_transcription={"model": None}) as socket:
        await socket.append(silence(BEFORE) + said("hello"))
        await socket.until("input_audio_buffer.speech_started")
        await socket.send("session.finish")
        await socket.append(said("hello"))  # nobody hears this
        await socket.send("input_image_buffer.append", image=encoded(jpeg()))
        await socket.send("input_audio_buffer.append", audio="")  # wrong, and nobody's matter any more
        await socket.send("input_image_buffer.append", image=encoded(jpeg()[:40]))
        assert await closed(socket) == (1000, "close_requested")
        kinds = [event["type"] for event in socket.events]
        assert kinds[-1] == "session.finished"
        assert kinds.count("input_audio_buffer.committed") == 1
        assert kinds.count("conversation.item.input_audio_transcription.completed") == 1
        (done,) = [event["response"] for event in socket.events if event["type"] == "response.done"]
        assert done["status"] == "completed"
        assert "error" not in kinds


async def test_while_a_session_finishes_only_its_answer_may_be_cancelled(stages: Stages) -> None:
    stages.next_calls("talker", Act("hang", 2))
    async with opened(stages) as socket:
        await socket.append(PCM)
        await socket.ask("input_audio_buffer.commit", "conversation.item.created")
        await socket.ask("response.create", "response.audio.delta")
        await socket.send("session.finish")
        await socket.send("session.finish")
        error = await socket.error("response.create")
        assert error["code"] == "session_finishing"
        done = (await socket.ask("response.cancel", "response.done"))["response"]
        assert done["status"] == "cancelled"
        assert await closed(socket) == (1000, "close_requested")


async def test_an_idle_session_finishes_at_once(stages: Stages) -> None:
    async with opened(stages) as socket:
        await socket.ask("session.finish", "session.finished")
        assert await closed(socket) == (1000, "close_requested")


async def test_a_session_goes_on_with_its_camera(stages: Stages) -> None:
    async with opened(stages, instructions="Be kind.", voice="Cherry", repetition_penalty=1.2) as socket:
        session_id = socket.events[0]["session"]["id"]
        shown = socket.events[1]["session"]
        for color in ("red", "green"):
            await socket.append(silence(500))
            await socket.send("input_image_buffer.append", image=encoded(jpeg(color=color)))
        await socket.ask("input_audio_buffer.commit", "conversation.item.created")
    await wait_until(lambda: not stages.gateway.gateway.sessions.count)
    async with opened(stages, f"?model=qwen3-omni-flash-realtime&session_id={session_id}") as socket:
        assert socket.events[0]["session"] == shown
        await socket.ask("response.create", "response.done")
        start = stages.calls("preprocess")[0]
        assert [part.WhichOneof("content") for part in start.messages[1].parts] == ["video", "audio"]
        assert stages.preprocess[0].media[0][:2] == [jpeg(color="red"), jpeg(color="green")]
        assert round(stages.calls("thinker")[0].sampling.repetition_penalty, 3) == 1.2

"""What Bob may try with Converse, and what comes of it."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import AntiphonError
from services.common.grpc_errors import error_from_rpc
from services.common.queues.tickets import PriorityClass
from tests.fixtures.wait import HANGS_AFTER_S
from tests.gateway.conftest import INSTRUCT
from tests.gateway.turn.test_converse import gateway_stub
from tests.isolation.engine_internals import HIDDEN
from tests.isolation.world import ALICES_MODEL, ALICES_WORDS, Tenant, World, check_indistinguishable

# Field 99, which no message here has, with HIDDEN in it: protobuf keeps it and sends it on.
UNKNOWN_FIELD = b"\x9a\x06" + bytes([len(HIDDEN)]) + HIDDEN.encode()


async def converse(world: World, method: str) -> None:
    async with gateway_stub(world.stages) as stub:

        async def refused(model: str) -> str:
            error = await _refusal(stub, world.bob, model=model)
            return f"{error.code} {error.param} {error.message}"

        await check_indistinguishable(world, refused)
        error = await _refusal(stub, world.bob, priority=PriorityClass.ORDINARY + 1)
        assert error.param == "priority"
        speech = [common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO]
        error = await _refusal(stub, world.bob, output_modalities=speech, voice=ALICES_MODEL.default_voice)
        assert error.code == "voice_not_allowed"
        for tenant in (world.alice, world.bob):
            with world.new_calls() as calls:
                events = [event async for event in _call(stub, tenant, conversation_id="the same for both")]
            assert {call.context.tenant for call in calls} == {tenant.name}
            assert not [call for call in calls if HIDDEN.encode() in call.SerializeToString()]
            if tenant is world.alice:
                world.alice.things.add(events[0].started.request_id)
            else:
                world.check_hidden("".join(map(str, events)), ALICES_WORDS)


def _call(stub: Any, tenant: Tenant, **fields: Any) -> Any:
    part = preprocess_pb2.Part.FromString(preprocess_pb2.Part(text=ALICES_WORDS).SerializeToString() + UNKNOWN_FIELD)
    sampling = thinker_pb2.ThinkerSampling.FromString(UNKNOWN_FIELD)
    given: dict[str, Any] = {
        "model": INSTRUCT.name,
        "messages": [preprocess_pb2.Message(role="user", parts=[part])],
        "sampling": sampling,
        **fields,
    }
    start = gateway_pb2.ConverseStart(**given).SerializeToString() + UNKNOWN_FIELD
    request = gateway_pb2.ConverseRequest(start=gateway_pb2.ConverseStart.FromString(start))
    metadata = (("authorization", f"Bearer {tenant.secret}"), ("x-tenant", "alice-corp.alice-prod"))
    return stub.Converse(iter([request]), metadata=metadata, timeout=HANGS_AFTER_S)


async def _refusal(stub: Any, tenant: Tenant, **fields: Any) -> AntiphonError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in _call(stub, tenant, **fields):
            pass
    return error_from_rpc(caught.value, "gateway")

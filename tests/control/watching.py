"""What the control plane tells a gateway, over real gRPC."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc.aio

from antiphon.v1 import control_pb2, control_pb2_grpc
from tests.control.conftest import TOKEN

METADATA = (("authorization", f"Bearer {TOKEN}"),)


@dataclass
class Watcher:
    """What a gateway would know after each connection."""

    epoch: str = ""
    version: int = 0
    keys: dict[str, control_pb2.TenantKey] = field(default_factory=dict[str, control_pb2.TenantKey])
    terms: dict[str, control_pb2.SubjectTerms] = field(default_factory=dict[str, control_pb2.SubjectTerms])
    prices: list[control_pb2.Price] = field(default_factory=list[control_pb2.Price])

    async def catch_up(self, address: str) -> list[control_pb2.WatchTenantsResponse]:
        """Connect, wait for what is missing, take it, and leave. Return its messages."""
        parts: list[control_pb2.WatchTenantsResponse] = []
        async with grpc.aio.insecure_channel(address) as channel:
            asked = control_pb2.WatchTenantsRequest(epoch=self.epoch, version=self.version)
            call = control_pb2_grpc.ControlStub(channel).WatchTenants(asked, metadata=METADATA)
            while not parts or not parts[-1].complete:
                part = await call.read()
                assert isinstance(part, control_pb2.WatchTenantsResponse)
                if (part.epoch, part.version) != (self.epoch, self.version):  # else it says that nothing changed
                    parts.append(part)
            call.cancel()
        if parts[0].snapshot:
            self.keys, self.terms, self.prices = {}, {}, []
        for part in parts:
            for id in part.removed_key_ids:
                self.keys.pop(id, None)
            for subject in part.removed_term_subjects:
                self.terms.pop(subject, None)
            self.keys |= {key.key_id: key for key in part.put}
            self.terms |= {terms.subject: terms for terms in part.put_terms}
            if part.has_prices:
                self.prices = list(part.prices)
        self.epoch, self.version = parts[-1].epoch, parts[-1].version
        return parts

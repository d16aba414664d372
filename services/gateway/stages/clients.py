"""The gRPC clients of the three stages."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.channels import ChannelPool
from services.gateway.stages.preprocess import PreprocessClient
from services.gateway.stages.talker import TalkerClient
from services.gateway.stages.thinker import ThinkerClient


@dataclass(frozen=True, slots=True)
class StageClients:
    preprocess: PreprocessClient
    thinker: ThinkerClient
    talker: TalkerClient

    @classmethod
    def over(cls, channels: ChannelPool) -> StageClients:
        return cls(PreprocessClient(channels), ThinkerClient(channels), TalkerClient(channels))

"""The scaler's settings; see services/common/settings.py for how they are read. Policy stands in each ScaledObject."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from services.common.errors import BadInput
from services.common.settings import ServiceSettings
from services.scaler.metadata import read_trigger


class ScalerSettings(ServiceSettings):
    look_s: float = Field(
        default=1.0, gt=0, le=15, description="time between two looks at the queue of an active stage"
    )
    idle_look_s: float = Field(
        default=0.25,
        gt=0,
        le=5,
        description="the same at zero replicas: how long the first ticket waits until KEDA knows",
    )
    triggers: list[dict[str, str]] = Field(
        default=[],
        description="JSON: metadata as in a ScaledObject's trigger, of queues to watch though no KEDA asks for them; "
        "an HPA can then scale by antiphon_scaler_wanted_replicas",
    )
    takeover_s: float = Field(
        default=60.0,
        ge=0,
        description="how long a scaler that takes over `triggers` from another waits before it shows "
        "antiphon_scaler_wanted_replicas; less than Prometheus' scrape interval lets an HPA add up both",
    )
    forget_s: float = Field(
        default=600.0, ge=60, description="how long a queue is watched after the last request for it"
    )
    pod_deletion_cost: bool = Field(
        default=False,
        description="write controller.kubernetes.io/pod-deletion-cost of workers' pods, so that a stage that shrinks "
        "loses its idlest; the service account must be allowed to patch pods",
    )
    pod_namespace: str = Field(default="", description="namespace whose pods get a deletion cost: this pod's own")
    pod_deletion_cost_refresh_s: float = Field(
        default=300.0, ge=10, description="time between two writes of a deletion cost when no stage is about to shrink"
    )
    pod_deletion_cost_patches_per_s: float = Field(default=10.0, gt=0, le=100, description="most pods patched a second")
    kubernetes_api: str = Field(
        default="https://kubernetes.default.svc", pattern="^https://[^/]+$", description="URL of the API server"
    )
    service_account: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="folder with the account's token and the API server's ca.crt",
    )

    @field_validator("triggers")
    @classmethod
    def each_is_right(cls, triggers: list[dict[str, str]]) -> list[dict[str, str]]:
        for metadata in triggers:
            try:
                read_trigger(metadata)
            except BadInput as error:
                raise ValueError(error.message) from None
        return triggers

    @model_validator(mode="after")
    def costs_have_a_namespace(self) -> Self:
        if self.pod_deletion_cost and not self.pod_namespace:
            raise ValueError("pod_deletion_cost needs pod_namespace")
        return self

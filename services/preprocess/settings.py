"""The preprocess service's settings, read from its environment."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from services.common.addresses import Network
from services.common.media_counts import MediaCountSettings
from services.preprocess.decoding.isolation.layers import Layer
from services.preprocess.fetching.addresses import FetchPolicy
from services.preprocess.limits import MediaLimits

_DEFAULTS = MediaLimits()


class PreprocessSettings(MediaCountSettings):
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="type of the features; must be the thinker's. auto = the checkpoint's own"
    )
    receive_timeout_s: float = Field(default=30.0, gt=0, description="longest wait for a request's next inline bytes")

    hang_after_s: float = Field(
        default=10.0,
        gt=0,
        description="ends a decoder with a job, or a worker whose processor has one, that works on nothing for so long",
    )

    # Where media may come from
    media_folder: Path | None = Field(
        default=None, description="local paths below it are served; none = no local paths"
    )
    fetch_ports: tuple[int, ...] = Field(default=(80, 443), description="ports of media URLs; [] = nothing is fetched")
    fetch_networks: tuple[str, ...] = Field(
        default=(), description='networks that are fetched from though not public: ["10.1.0.0/16"]'
    )
    fetch_connect_s: float = Field(default=5.0, gt=0, description="longest wait for a connection to a URL's host")
    fetch_total_s: float = Field(default=30.0, gt=0, description="longest fetch, redirects included")
    fetch_redirects: int = Field(default=3, ge=0, description="redirects of one URL that are followed")
    url_memory_s: float = Field(
        default=600.0, ge=0, description="a tenant's URL is not fetched again for so long while its features are kept"
    )

    # What media may cost
    max_item_bytes: int = Field(default=_DEFAULTS.item_bytes, ge=1, description="bytes of one file")
    max_request_bytes: int = Field(default=_DEFAULTS.request_bytes, ge=1, description="bytes of one request's media")
    max_image_pixels: int = Field(default=_DEFAULTS.image_pixels, ge=1, description="pixels of one picture")
    max_audio_s: float = Field(default=_DEFAULTS.audio_s, gt=0, description="length of one sound")
    max_recording_s: float = Field(
        default=_DEFAULTS.recording_s, gt=0, description="length of a recording that is transcribed in pieces"
    )
    max_video_s: float = Field(default=_DEFAULTS.video_s, gt=0, description="length of one film")
    max_video_frame_pixels: int = Field(
        default=_DEFAULTS.video_frame_pixels, ge=1, description="pixels of a film's frame, as it is in the file"
    )
    max_video_frames: int = Field(
        default=_DEFAULTS.video_frames, ge=2, description="frames that are sampled of one video"
    )
    max_item_tokens: int | None = Field(
        default=None, ge=1, description="tokens of one item: the thinker's largest batch; none = max_model_len"
    )

    memory_bytes: int | None = Field(
        default=None,
        ge=64 << 20,
        description="memory of all requests together: three tenths for files, three for small items, the rest for "
        "large ones; none = five sixths of what the container has beside caches and 2 GiB, at least 1 GiB",
    )

    # The decoders' processes
    decoders: int = Field(default=2, ge=1, description="processes that decode")
    decode_timeout_s: float = Field(
        default=240.0,
        gt=0,
        description="longest decoding of one item; at least decode_cpu_s, since decoders share processors",
    )
    decode_cpu_s: float = Field(
        default=120.0, gt=0, validate_default=True, description="most processor time to decode one item"
    )
    decode_isolation_required: tuple[Layer, ...] = Field(
        default=(),
        description='layers of isolation without which it does not start: ["seccomp", "landlock"]; each is used where '
        "the kernel grants it",
    )
    decode_memory_bytes: int = Field(
        default=2 << 30, ge=64 << 20, description="memory of one decoder, over its libraries"
    )

    # Caches
    feature_bytes: int = Field(
        default=4 << 30, ge=1 << 20, description="features of live turns, and those kept for reuse"
    )
    feature_hold_s: float = Field(
        default=900.0,
        gt=0,
        description="a turn that nobody releases is over by then; more than the gateways' request_timeout_s",
    )
    sound_bytes: int = Field(default=256 << 20, ge=0, description="decoded sounds kept for a conversation's next turns")

    @field_validator("fetch_networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @field_validator("decode_cpu_s")
    @classmethod
    def _ends_before_the_clock(cls, value: float, info: ValidationInfo) -> float:
        """Without this, a file within `decode_cpu_s` would be refused after `decode_timeout_s`."""
        if value > info.data.get("decode_timeout_s", value):
            raise ValueError(f"is more than decode_timeout_s, {info.data['decode_timeout_s']:g}: raise that too")
        return value

    @property
    def limits(self) -> MediaLimits:
        return MediaLimits(
            item_bytes=self.max_item_bytes,
            request_bytes=self.max_request_bytes,
            image_pixels=self.max_image_pixels,
            audio_s=self.max_audio_s,
            recording_s=self.max_recording_s,
            video_s=self.max_video_s,
            video_frame_pixels=self.max_video_frame_pixels,
            video_frames=self.max_video_frames,
            item_tokens=min(self.max_item_tokens or self.max_model_len, self.max_model_len),
        )

    @property
    def fetch_policy(self) -> FetchPolicy:
        networks: tuple[Network, ...] = tuple(ipaddress.ip_network(network) for network in self.fetch_networks)
        return FetchPolicy(self.fetch_ports, networks, self.fetch_redirects, self.fetch_connect_s, self.fetch_total_s)

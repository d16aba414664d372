"""What a request's media may cost. Frozen, passed down from the settings, and sent to the decoders with each job."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from antiphon.v1 import common_pb2


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds on media: of one request where the name says `request`, else of one item."""

    item_bytes: int = 100 << 20
    request_bytes: int = 256 << 20
    image_pixels: int = 64_000_000
    audio_s: float = 2400.0
    # Of a recording that is cut into pieces.
    recording_s: float = 4 * 3600.0
    video_s: float = 600.0
    # Of one frame as it is in the file.
    video_frame_pixels: int = 3840 * 2160
    # Frames that are sampled, and frames of a video that is given as images.
    video_frames: int = 768
    # Tokens of one item; a larger item does not fit one step of the engine.
    item_tokens: int = 32768

    @property
    def published(self) -> common_pb2.InputLimits:
        """What the model card says of them."""
        return common_pb2.InputLimits(**asdict(self))

"""The talker's cases, and those that only the thinker's engine can get wrong."""

from __future__ import annotations

from tests.fixtures.oracle import OracleMedia
from tests.talker.cases import AUDIO, SYSTEM, VIDEO, Case, audio, text, turn, video
from tests.talker.cases import CASES as SHARED

VIDEO_KWARGS = {"videos_kwargs": {"cap_pixels_per_frame": False}}


def with_sound(seconds: float, frames: int) -> Case:
    return Case(
        [SYSTEM, turn("user", VIDEO, text("What is said?"))],
        OracleMedia(audios=[audio(seconds, 8)], videos=[video(frames, 64, 64, 9)], processor_kwargs=VIDEO_KWARGS),
        use_audio_in_video=True,
    )


CASES = SHARED | {
    "one picture, then its sound": with_sound(1.0, 2),
    "sound shorter than the picture is wide": with_sound(0.5, 2),
    "two short sounds": Case(
        [SYSTEM, turn("user", AUDIO, text("Or"), AUDIO, text("?"))],
        OracleMedia(audios=[audio(0.31, 20), audio(0.74, 21)]),
    ),
    "a short sound and a long one": Case(
        [SYSTEM, turn("user", AUDIO, text("Or"), AUDIO, text("?"))],
        OracleMedia(audios=[audio(0.31, 20), audio(1.9, 22)]),
    ),
    "sound far longer than the picture": with_sound(4.3, 2),
}

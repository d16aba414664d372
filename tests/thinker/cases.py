"""The talker's cases, and further ones for the thinker's engine."""

from __future__ import annotations

from tests.fixtures.oracle import OracleMedia
from tests.talker.cases import AUDIO, IMAGE, SYSTEM, VIDEO, Case, audio, image, text, turn, video
from tests.talker.cases import CASES as SHARED

VIDEO_KWARGS = {"videos_kwargs": {"cap_pixels_per_frame": False}}


def with_sound(seconds: float, frames: int, fps: float = 1.0) -> Case:
    return Case(
        [SYSTEM, turn("user", VIDEO, text("What is said?"))],
        OracleMedia(
            audios=[audio(seconds, 8)],
            videos=[video(frames, 64, 64, 9)],
            processor_kwargs=VIDEO_KWARGS | {"fps": fps},
        ),
        use_audio_in_video=True,
    )


def at_fps(fps: float, frames: int) -> Case:
    return Case(
        [SYSTEM, turn("user", VIDEO, text("What happens?"))],
        OracleMedia(videos=[video(frames, 64, 64, 12)], processor_kwargs=VIDEO_KWARGS | {"fps": fps}),
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
    # Temporal patches are 6.5, 8.67, 5.2 or (768 frames of a video of 500 s) 16.93 positions apart.
    "video at 4 frames a second": at_fps(4, 12),
    "video at 3 frames a second, with sound": with_sound(2.2, 8, fps=3),
    "video at 5 frames a second, with sound": with_sound(1.9, 10, fps=5),
    "film of 500 s": at_fps(768 / 500, 24),
    "two fractional videos around an image": Case(
        [SYSTEM, turn("user", VIDEO, text("and"), IMAGE, VIDEO, text("Compare."))],
        OracleMedia(
            images=[image(96, 64, 4)],
            videos=[video(6, 64, 64, 10), video(4, 96, 64, 11)],
            processor_kwargs=VIDEO_KWARGS | {"fps": 4},
        ),
    ),
}

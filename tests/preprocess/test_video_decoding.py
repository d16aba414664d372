"""Which frames of a video are sampled, and at what size. The expected figures come from qwen-omni-utils 0.0.9."""

from dataclasses import replace
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from services.preprocess.limits import MediaLimits
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.sampling import VideoOptions, frame_size, plan_video, smart_resize
from services.preprocess.media.video import DecodedVideo, decode_frames, decode_video, resize
from tests.preprocess.media_files import (
    Pixels,
    decoded_frames,
    image_file,
    moving_picture,
    photograph,
    sound_file,
    tone,
    video_file,
)

LIMITS = MediaLimits(item_tokens=10**9)
PLAIN = VideoOptions(factor=32)


@pytest.mark.parametrize(
    ("total", "fps", "asked", "expected"),
    [
        (50, 25, None, [0, 16, 33, 49]),
        (132, 25, None, [0, 15, 29, 44, 58, 73, 87, 102, 116, 131]),
        (40, 10, None, [0, 6, 11, 17, 22, 28, 33, 39]),
        (7, 30, None, [0, 2, 4, 6]),
        (5, 30, None, [0, 1, 3, 4]),
        (3, 30, None, [0, 2]),
        (2, 1, None, [0, 1]),
        (100, 25, 0.5, [0, 33, 66, 99]),
        (30, 30, 6, [0, 6, 12, 17, 23, 29]),
        (4, 2, 24, [0, 1, 2, 3]),
    ],
)
def test_frames_are_chosen_evenly_from_first_to_last(total: int, fps: float, asked: float | None, expected: list[int]):
    plan = plan_video(total, fps, 64, 96, replace(PLAIN, fps=asked), max_frames=768, tokens=10**9)
    assert list(plan.indices) == expected
    assert plan.fps == (asked or 2.0)


def test_a_film_thinned_by_the_limit_reports_its_new_rate():
    plan = plan_video(30_000, 25, 64, 96, PLAIN, max_frames=768, tokens=10**9)
    assert (len(plan.indices), plan.indices[-1], plan.fps) == (768, 29_999, 0.64)


@pytest.mark.parametrize(
    ("frames", "height", "width", "options", "expected"),
    [
        (8, 64, 96, {}, (320, 448)),
        (10, 720, 1280, {}, (640, 1152)),
        (768, 720, 1280, {}, (384, 736)),
        (4, 480, 640, {}, (480, 640)),
        (4, 1080, 1920, {"max_pixels": 200_000}, (320, 576)),
        (4, 100, 100, {"min_pixels": 4096}, (96, 96)),
        (20, 1080, 1920, {"total_pixels": 3_000_000}, (384, 704)),
    ],
)
def test_frames_have_the_size_of_smart_resize(
    frames: int, height: int, width: int, options: dict[str, int], expected: tuple[int, int]
):
    assert frame_size(frames, height, width, VideoOptions(32, **options)) == expected


def test_pixel_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(MediaProblem, match="max_pixels"):
        smart_resize(100, 100, 32, 5000, 4000)


@pytest.mark.parametrize("size", [(352, 384), (640, 704), (96, 128)])
def test_the_resize_equals_torchvisions_bit_for_bit(size: tuple[int, int]):
    planes = torch.from_numpy(photograph().copy()).permute(2, 0, 1)
    expected = torchvision_resize(planes, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert np.array_equal(resize(photograph(), *size), expected.numpy())


def all_frames(file: bytes) -> list[Pixels]:
    return [frame.to_ndarray(format="rgb24") for frame in decoded_frames(file, "video")]


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv", "mpeg4"])
@pytest.mark.parametrize(("frames", "fps"), [(40, 10), (33, 24)])
def test_the_frames_of_a_file_are_the_planned_ones(kind: str, frames: int, fps: int):
    file = video_file(frames, fps, kind=kind)
    pictures = all_frames(file)
    assert len(pictures) == frames
    plan = plan_video(frames, fps, 64, 96, PLAIN, max_frames=768, tokens=10**9)
    decoded = decode_video(file, PLAIN, LIMITS, with_sound=False)
    assert np.array_equal(
        decoded.frames, np.stack([resize(pictures[i], plan.height, plan.width) for i in plan.indices])
    )


def test_a_variable_frame_rate_is_decoded():
    out = BytesIO()
    with av.open(out, "w", format="mp4") as container:
        track = container.add_stream("libx264", rate=30)
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        for i, pixels in enumerate(moving_picture(24, (96, 64))):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i * (i + 1) // 2
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    assert len(decode_video(out.getvalue(), PLAIN, LIMITS, with_sound=False).frames) % 2 == 0


def test_the_sound_comes_with_the_picture():
    decoded = decode_video(video_file(sound=tone(4.0, 48_000, 2)), PLAIN, LIMITS, with_sound=True)
    assert decoded.sound is not None
    assert abs(decoded.sound.size - 64_000) < 1100
    assert decoded.sound.dtype == np.float32


def test_a_film_of_images_is_padded_to_an_even_count():
    pictures = moving_picture(5, (96, 64))
    decoded = decode_frames([image_file(p, "png") for p in pictures], replace(PLAIN, fps=4), LIMITS)
    assert np.array_equal(decoded.frames, np.stack([resize(p, 320, 448) for p in (*pictures, pictures[-1])]))
    assert decoded.fps == 4


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> MediaProblem:
    with pytest.raises(MediaProblem) as caught:
        decode_video(data, PLAIN, limits, with_sound=False)
    return caught.value


def test_a_film_without_the_wanted_sound_is_only_seen():
    assert decode_video(video_file(frames=6), PLAIN, LIMITS, with_sound=True).sound is None


def test_images_of_two_sizes_are_refused_as_a_film():
    files = [image_file(moving_picture(1, size)[0], "png") for size in ((96, 64), (64, 96))]
    with pytest.raises(MediaProblem, match="Frame 1"):
        decode_frames(files, PLAIN, LIMITS)


@pytest.mark.parametrize("data", [b"", bytes(5000), b"\x1aE\xdf\xa3", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"])
def test_bytes_that_are_not_a_film_are_refused(data: bytes):
    assert refusal(data).code == "invalid_media"


def test_an_image_and_a_sound_are_refused_as_films():
    assert "png image" in refusal(image_file(photograph(), "png")).message
    assert refusal(sound_file(tone(1.0), 16_000, "m4a")).code == "invalid_media"
    assert refusal(sound_file(tone(1.0), 16_000, "mp3")).code == "invalid_media"


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.98])
def test_a_file_cut_short_is_refused(kind: str, part: float):
    file = video_file(kind=kind, sound=tone(4.0, 48_000))
    assert refusal(file[: int(len(file) * part)]).code == "invalid_media"


def test_an_unsupported_codec_is_refused():
    out = BytesIO()
    with av.open(out, "w", format="matroska") as container:
        track = container.add_stream("ffv1", rate=10)
        track.width, track.height, track.pix_fmt = 96, 64, "yuv420p"
        for pixels in moving_picture(6, (96, 64)):
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
    assert "ffv1. Send h264" in refusal(out.getvalue()).message


def test_a_film_over_a_limit_is_refused():
    file = video_file(frames=40)
    assert "3 s" in refusal(file, replace(LIMITS, video_s=3.0)).message
    assert "6144 pixels" in refusal(file, replace(LIMITS, video_frame_pixels=5000)).message
    assert refusal(file, replace(LIMITS, item_tokens=500)).code == "context_length_exceeded"
    with pytest.raises(MediaProblem, match="at most 3"):
        decode_frames([image_file(photograph(), "png")] * 4, PLAIN, replace(LIMITS, video_frames=3))


def test_the_frame_limit_thins_a_film():
    decoded: DecodedVideo = decode_video(
        video_file(frames=40), PLAIN, replace(LIMITS, video_frames=4), with_sound=False
    )
    assert (len(decoded.frames), decoded.fps) == (4, 1.0)

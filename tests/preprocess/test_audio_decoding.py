"""Decoded audio equals librosa.load(sr=16000), which the model's utilities call."""

import math
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import soundfile
import soxr

from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.samples import to_mono
from tests.preprocess.media_files import Samples, decoded_frames, image_file, photograph, sound_file, tone, video_file

LIMITS = MediaLimits()


def librosa_load(channels: Samples, rate: int) -> Samples:
    """Do what librosa.load does after reading: average the channels [channels, frames], resample with soxr HQ, and cut
    or pad to ceil(frames · ratio)."""
    mono = np.mean(channels, axis=0)
    if rate == 16_000:
        return mono
    ratio = 16_000 / rate
    out = soxr.resample(mono, rate, 16_000, quality="soxr_hq")
    wanted = math.ceil(mono.size * ratio)
    return np.pad(out, (0, max(0, wanted - out.size)))[:wanted].astype(np.float32)


@pytest.mark.parametrize("kind", ["wav", "wav-float", "flac", "mp3", "ogg", "opus"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_files_read_by_libsndfile_equal_librosa(kind: str, rate: int, channels: int):
    file = sound_file(tone(0.7, rate, channels), rate, kind)
    read, read_rate = soundfile.read(BytesIO(file), dtype="float32", always_2d=True)
    expected = librosa_load(read.T.astype(np.float32), read_rate)
    if kind == "mp3":  # mpg123's rounding depends on where its buffers lie
        np.testing.assert_allclose(decode_audio(file, LIMITS), expected, atol=1e-6)
    else:
        assert np.array_equal(decode_audio(file, LIMITS), expected)


@pytest.mark.parametrize("kind", ["m4a", "webm"])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_read_by_ffmpeg_equal_librosa_on_16_bit_samples(kind: str, channels: int):
    file = sound_file(tone(0.7, 48_000, channels), 48_000, kind)
    decoded = np.concatenate([frame.to_ndarray() for frame in decoded_frames(file, "audio")], axis=1)
    rounded = np.clip(np.rint(decoded * 32768), -32768, 32767) / 32768
    expected = librosa_load(rounded.astype(np.float32), 48_000)
    assert np.abs(decode_audio(file, LIMITS) - expected).max() < 2 / 32768
    assert decode_audio(file, LIMITS).size == expected.size


@pytest.mark.parametrize("rate", [11_025, 22_050, 44_100, 96_000])
def test_any_rate_is_resampled_to_16_khz(rate: int):
    out = decode_audio(sound_file(tone(0.5, rate), rate, "wav-float"), LIMITS)
    assert out.size == 8000
    assert np.corrcoef(out, tone(0.5)[:, 0])[0, 1] > 0.99


def test_six_channels_are_averaged():
    samples = tone(0.4, channels=6)
    out = decode_audio(sound_file(samples, 16_000, "wav-float"), LIMITS)
    assert np.array_equal(out, samples.T.mean(axis=0))


def test_the_sound_of_a_film_can_be_sent_as_audio():
    film = video_file(frames=10, sound=tone(1.0, 48_000))
    assert abs(decode_audio(film, LIMITS).size - 16_000) < 1000


def refusal(data: bytes, limits: MediaLimits = LIMITS) -> MediaProblem:
    with pytest.raises(MediaProblem) as caught:
        decode_audio(data, limits)
    return caught.value


def test_an_image_is_refused_as_audio():
    assert refusal(image_file(photograph(), "png")).code == "invalid_media"


def test_a_film_without_sound_is_refused_as_audio():
    assert "no sound track" in refusal(video_file(frames=5)).message


@pytest.mark.parametrize("data", [b"", b"RIFF", b"nonsense " * 500, b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", bytes(4096)])
def test_bytes_that_are_not_audio_are_refused(data: bytes):
    assert refusal(data).code == "invalid_media"


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "webm"])
def test_a_file_cut_in_half_is_refused(kind: str):
    file = sound_file(tone(2.0, 48_000), 48_000, kind)
    assert refusal(file[: len(file) // 2]).code == "invalid_media"


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "m4a"])
def test_a_file_with_a_damaged_header_is_refused(kind: str):
    file = bytearray(sound_file(tone(1.0, 48_000), 48_000, kind))
    file[16:80] = bytes(64)
    assert refusal(bytes(file)).code == "invalid_media"


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "opus", "m4a"])
def test_a_sound_over_the_limit_is_refused(kind: str):
    file = sound_file(tone(3.0, 48_000), 48_000, kind)
    problem = refusal(file, replace(LIMITS, audio_s=2.0))
    assert (problem.code, "2 s" in problem.message) == ("media_too_large", True)


def test_a_long_quiet_opus_file_is_stopped_while_it_is_decoded():
    file = sound_file(np.zeros((48_000 * 120, 1), np.float32), 48_000, "webm")
    assert len(file) < 200_000
    assert refusal(file, replace(LIMITS, audio_s=10.0)).code == "media_too_large"


def test_a_sound_of_a_few_samples_is_refused():
    assert "Send at least 13 ms" in refusal(sound_file(tone(0.01), 16_000, "wav")).message


def test_samples_that_are_not_finite_are_refused():
    samples = tone(0.5)
    samples[100] = np.nan
    assert refusal(sound_file(samples, 16_000, "wav-float")).code == "invalid_media"


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 32])
def test_channels_average_alike_block_by_block(channels: int):
    sound = np.random.default_rng(0).standard_normal((10_000, channels)).astype(np.float32)
    whole = sound.T.mean(axis=0) if channels > 1 else sound[:, 0]
    blocks = [to_mono(sound[start : start + 1024]) for start in range(0, len(sound), 1024)]
    assert np.array_equal(np.concatenate(blocks), whole)

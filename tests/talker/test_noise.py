"""Each request's noise: that of torch's own generators, whatever shares the batch and wherever speech resumes."""

from __future__ import annotations

import pytest
import torch

from services.talker.noise import GeneratorNoise, Noise, PhiloxNoise, noise_at, philox, split_draws

SIZES = (3072, 2048, 2048)
CPU = torch.device("cpu")


def values(noise: torch.Tensor, sizes: tuple[int, ...] = SIZES) -> torch.Tensor:
    """Return all of a frame's noise: float32 [batch, sum of sizes]."""
    everything = [torch.arange(size, device=noise.device).expand(len(noise), -1) for size in sizes]
    return torch.cat([noise_at(*each) for each in zip(split_draws(noise, sizes), everything, strict=True)], 1)


def sources() -> list[Noise]:
    return [GeneratorNoise(SIZES), PhiloxNoise(len(SIZES), 3, CPU)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # The known answers of the generator's authors (Random123, kat_vectors).
        ((0, 0, 0, 0), (0, 0), 0x6627E8D5),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, 0x408F276D),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), 0xD16CFE09),
    ],
)
def test_philox_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: int
) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    k0, k1 = (torch.tensor([word]) for word in key)
    assert philox((c0, c1, c2, c3), (k0, k1)).item() == expected


def test_cpu_noise_equals_torchs_generator() -> None:
    noise = GeneratorNoise(SIZES)
    noise.start(2, 77)
    generator = torch.Generator().manual_seed(77)
    for _ in range(3):
        expected = torch.cat([torch.empty(1, size).exponential_(generator=generator)[0] for size in SIZES])
        assert torch.equal(noise.frame(torch.tensor([2]), [2])[0], expected)


@pytest.mark.gpu
def test_gpu_noise_equals_torchs_generator() -> None:
    device = torch.device("cuda")
    noise = PhiloxNoise(len(SIZES), 3, device)
    noise.start(2, 2**61 + 77)
    generator = torch.Generator(device).manual_seed(2**61 + 77)
    for _ in range(3):
        parts = [torch.empty(1, size, device=device).exponential_(generator=generator)[0] for size in SIZES]
        ours = values(noise.frame(torch.tensor([2], device=device), [2]))[0]
        # torch uses CUDA's fast logarithm there; this is its error bound.
        torch.testing.assert_close(ours, torch.cat(parts), rtol=1e-5, atol=4e-7)


@pytest.mark.parametrize("kind", [0, 1], ids=["generator", "philox"])
def test_noise_does_not_depend_on_the_batch(kind: int) -> None:
    together, alone = sources()[kind], sources()[kind]
    for slot in (1, 2, 3):
        together.start(slot, slot)
    alone.start(1, 2)
    for slots in ([1, 2], [2], [3, 2, 1]):
        row = together.frame(torch.tensor(slots), slots)[slots.index(2)].clone()
        assert torch.equal(row, alone.frame(torch.tensor([1]), [1])[0])


@pytest.mark.parametrize("kind", [0, 1], ids=["generator", "philox"])
def test_skipping_frames_advances_noise_like_drawing_them(kind: int) -> None:
    drawn, skipped = sources()[kind], sources()[kind]
    at = torch.tensor([1])
    for noise in (drawn, skipped):
        noise.start(1, 5)
    for _ in range(4):
        drawn.frame(at, [1])
    skipped.skip(1, 4)
    assert torch.equal(drawn.frame(at, [1]), skipped.frame(at, [1]))


def test_philox_noise_is_exponential() -> None:
    noise = PhiloxNoise(1, 1, CPU)
    noise.start(1, 2**62)
    drawn = values(noise.frame(torch.tensor([1]), [1]), (60_000,))[0]
    assert drawn.min() > 0
    assert abs(float(drawn.mean()) - 1) < 0.02
    assert abs(float(drawn.var()) - 1) < 0.05
    assert abs(float((drawn > 2).float().mean()) - 0.1353) < 0.006


def test_noise_at_chosen_ids_has_the_same_bits() -> None:
    noise = PhiloxNoise(len(SIZES), 3, CPU)
    for slot in (1, 2, 3):
        noise.start(slot, 2**61 + slot)
    for _ in range(3):
        keys = noise.frame(torch.tensor([2, 3, 1]), [1, 2, 3])
        everything = values(keys).split(SIZES, 1)
        for draw, part in zip(split_draws(keys, SIZES), everything, strict=True):
            ids = torch.randint(0, part.shape[1], (3, 64))
            assert torch.equal(noise_at(draw, ids), part.gather(1, ids))


@pytest.mark.parametrize("kind", [0, 1], ids=["generator", "philox"])
def test_a_greedy_requests_noise_is_one(kind: int) -> None:
    noise = sources()[kind]
    noise.start(1, 5)
    noise.start(2, None)
    noise.frame(torch.tensor([1]), [1])
    for _ in range(2):
        assert values(noise.frame(torch.tensor([2]), [])).eq(1).all()

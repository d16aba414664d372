"""The noise of draws: exponential, each request's own, and the same whatever shares the batch.

`torch.multinomial` draws argmax(p / exponential noise) and takes the noise from a generator. Both sources here give
what torch's generator of their device gives after `manual_seed(seed)`, for a frame's draws in order: code 0, then
residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from services.talker.cuda_graphs import GraphedCall
from services.talker.cuda_stream import CudaStream, to_device
from services.talker.fusion import FusedCall

# Philox4x32-10: multipliers and key steps (Salmon et al. 2011; as in cuRAND and torch's CUDA generator).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


# The position of a greedy request, whose noise is 1: among equal scores the first is taken.
_GREEDY = -(1 << 40)


class Noise(Protocol):
    """Holds, for each slot, its request's position in its own sequence of draws."""

    def start(self, slot: int, seed: int | None) -> None:
        """Begin a new request in the slot; seed: None if it is greedy."""
        ...

    def frame(self, slots: Tensor, sampled: Sequence[int]) -> Tensor:
        """Return the next frame's noise, which `split_draws` takes apart. sampled: the slots that are not greedy."""
        ...

    def skip(self, slot: int, frames: int) -> None:
        """Skip frames that were drawn before."""
        ...


def noise_source(sizes: Sequence[int], slots: int, device: torch.device, cuda_stream: CudaStream) -> Noise:
    """sizes: vocabularies of a frame's draws, in order; slots does not count the scratch slot 0; cuda_stream: the
    caller's."""
    if device.type == "cuda":
        return PhiloxNoise(len(sizes), slots, device, cuda_stream=cuda_stream)
    return GeneratorNoise(sizes)


def split_draws(noise: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Return each draw's part of a frame's noise: GeneratorNoise's values float32 [batch, size], or PhiloxNoise's keys
    int64 [batch, 2]."""
    return noise.split(tuple(sizes), 1) if noise.is_floating_point() else noise.unbind(1)


def noise_at(draw: Tensor, ids: Tensor) -> Tensor:
    """Return the noise of these ids: one draw's part, and int64 [batch, n] → float32 [batch, n]. From keys, it computes
    no noise but theirs."""
    return draw.gather(-1, ids) if draw.is_floating_point() else exponential(draw, ids)


class GeneratorNoise:
    """torch's CPU generator, one for each request. Its noise is the values: float32 [batch, sum of sizes]."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._generators: dict[int, torch.Generator] = {}
        self._buffer, self._draws = self._allocate(0)
        # Rows of the buffer that hold other values than 1.
        self._drawn = set[int]()

    def start(self, slot: int, seed: int | None) -> None:
        if seed is not None:
            self._generators[slot] = torch.Generator().manual_seed(seed)

    def frame(self, slots: Tensor, sampled: Sequence[int]) -> Tensor:
        if len(self._buffer) < len(slots):
            self._buffer, self._draws = self._allocate(len(slots))
            self._drawn.clear()
        drawing = set(sampled)
        for row, slot in enumerate(slots.tolist()):
            if slot in drawing:
                self._fill(self._draws[row], slot)
                self._drawn.add(row)
            elif row in self._drawn:
                self._buffer[row] = 1
                self._drawn.discard(row)
        return self._buffer[: len(slots)]

    def skip(self, slot: int, frames: int) -> None:
        _, (draws,) = self._allocate(1)
        for _ in range(frames):
            self._fill(draws, slot)

    def _allocate(self, count: int) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Return a buffer for the noise of so many streams, and views of each one's draws."""
        buffer = torch.ones(count, sum(self._sizes))
        return buffer, [noise.split(self._sizes) for noise in buffer]

    def _fill(self, draws: Sequence[Tensor], slot: int) -> None:
        generator = self._generators[slot]
        for draw in draws:
            draw.exponential_(generator=generator)


class PhiloxNoise:
    """torch's CUDA generator, computed for all streams at once, and only for the ids that a draw chooses from.

    Element i of a request's draw number d is Philox(key = seed, counter = (d, i)): a draw of up to half a million
    elements takes one counter step, and each element is its own subsequence. So a request's position is one number, and
    skipping is adding. Its noise is the keys: int64 [batch, draws, 2], the draw's number and the seed.
    """

    def __init__(self, draws: int, slots: int, device: torch.device, *, cuda_stream: CudaStream | None = None) -> None:
        """draws: of a frame. cuda_stream: the caller's; if given, compiled and captured as FusedCall and GraphedCall
        do."""
        self._keys = FusedCall(_keys, enabled=cuda_stream is not None)
        self.next_frame = GraphedCall(self._frame, cuda_stream)
        self._seeds = torch.zeros(slots + 1, dtype=torch.int64, device=device)
        self._drawn = torch.zeros(slots + 1, dtype=torch.int64, device=device)
        self._draws = torch.arange(draws, device=device)

    def start(self, slot: int, seed: int | None) -> None:
        self._seeds[slot] = to_device(seed or 0, self._seeds.device)
        self._drawn[slot].fill_(_GREEDY if seed is None else 0)

    def frame(self, slots: Tensor, sampled: Sequence[int]) -> Tensor:
        return self.next_frame(slots)

    def _frame(self, slots: Tensor) -> Tensor:
        drawn = self._drawn[slots]
        self._drawn.index_copy_(0, slots, drawn + len(self._draws))
        return self._keys(None, drawn, self._seeds[slots], draws=self._draws)

    def skip(self, slot: int, frames: int) -> None:
        self._drawn[slot] += frames * len(self._draws)


def _keys(_: None, drawn: Tensor, seeds: Tensor, *, draws: Tensor) -> Tensor:
    """drawn and seeds int64 [batch]: each stream's position and seed; draws int64 [draws of a frame]."""
    numbers = drawn[:, None] + draws
    return torch.stack((numbers, seeds[:, None].expand_as(numbers)), -1)


def exponential(keys: Tensor, ids: Tensor) -> Tensor:
    """Return elements `ids` int64 [batch, n] of each stream's draw: keys int64 [batch, 2] → float32 [batch, n]."""
    number, seed = keys[:, :1], keys[:, 1:]
    nothing = torch.zeros_like(number)
    bits = philox((number, nothing, ids, nothing), (seed & _LOW, (seed >> 32) & _LOW))
    # curand_uniform: in (0, 1], each step rounded to float32; torch's exponential keeps log away from 0.
    uniform = bits.float() * 2.0**-32 + 2.0**-33
    least = torch.finfo(torch.float32).eps / 2
    values = -torch.where(uniform >= 1 - least, -least, uniform.log())
    return torch.where(number < 0, 1.0, values)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """The first 32 bits of each Philox4x32-10 block; all are int64 tensors that hold 32 bits and broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_number in range(_ROUNDS):
        if round_number:
            k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0


def _multiply(factor: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """High and low half of a 32 by 32 bit product. It may reach int64's sign: the bits are right all the same."""
    product = value * factor
    return (product >> 32) & _LOW, product & _LOW

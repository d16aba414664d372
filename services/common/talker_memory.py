"""How many streams of the talker a memory budget holds: the arithmetic that the engine, the sizes and `make up` share.

All sizes are bytes. Nothing here needs torch: the engine measures what a stream costs on its own modules, the others
take the released checkpoint's costs below. tests/talker/test_memory.py compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.common.gpu_memory import DoesNotFitError

MAX_SLOTS = 512
BLOCK_SIZE = 64
"""Tokens in a block of the KV cache."""
USUAL_PROMPT_TOKENS = 512
"""Prompt tokens that a slot is planned with, beside its longest speech. A longer stream takes more blocks."""
MAX_FRAMES = 4095
"""Longest answer in codec frames by default; each frame is a token of the talker."""
WORKSPACE_BYTES = 768 << 20
"""Of a GPU: CUDA graphs and libraries."""


@dataclass(frozen=True)
class StreamCosts:
    """block: keys and values of BLOCK_SIZE tokens. state: one slot's codec and predictor state. step: what the largest
    step works in for each of its streams; 0 on a CPU, which gives it back."""

    block: int
    state: int
    step: int


@dataclass(frozen=True)
class StreamPlan:
    """Slots over a pool of blocks; block 0 and slot 0 are scratch and not counted."""

    slots: int
    num_blocks: int
    bytes: int


RELEASED_WEIGHTS = 7_704_080_258
"""Talker, code predictor, code2wav and the thinker's embeddings of Qwen3-Omni-30B-A3B-Instruct, in BF16."""
RELEASED_COSTS = StreamCosts(block=1_310_720, state=3_189_888, step=6_000_000)
"""The released checkpoint's on a GPU, in BF16."""
RELEASED_MAX_TOKENS = 65_536
"""The released talker's max_position_embeddings."""


def blocks_for(tokens: int) -> int:
    """Return how many blocks hold so many tokens."""
    return -(-tokens // BLOCK_SIZE)


def padded_batch(streams: int) -> int:
    """Return the batch size that a step of so many streams is padded to on a GPU."""
    return min(1 << max(streams - 1, 0).bit_length(), MAX_SLOTS)


def planned_tokens(max_frames: int, max_tokens: int) -> int:
    """Return the tokens that a slot is planned with."""
    return min(USUAL_PROMPT_TOKENS + max_frames, max_tokens)


def streams_bytes(costs: StreamCosts, slots: int, num_blocks: int) -> int:
    """Return what so many slots and blocks take, scratch included."""
    return (num_blocks + 1) * costs.block + (slots + 1) * costs.state + padded_batch(slots) * costs.step


def plan_streams(
    costs: StreamCosts, budget: int, *, max_slots: int, max_frames: int = MAX_FRAMES, max_tokens: int
) -> StreamPlan:
    """Return the most slots, up to `max_slots`, that the budget holds at the planned length. What is left goes to
    longer streams. Raise DoesNotFitError where not even one slot fits.

    max_tokens: the longest sequence of the talker.
    """
    tokens = planned_tokens(max_frames, max_tokens)
    blocks = blocks_for(tokens)
    least = streams_bytes(costs, 1, blocks)
    if least > budget:
        raise DoesNotFitError(
            f"a stream of {tokens} tokens takes {least / 1e6:.0f} MB, but {max(budget, 0) / 1e6:.0f} MB are left for "
            "streams: give the talker more memory or lower max_frames"
        )
    slots = max_slots
    while streams_bytes(costs, slots, slots * blocks) > budget:
        slots -= 1
    room = (budget - streams_bytes(costs, slots, 0)) // costs.block
    num_blocks = min(room, max(slots * blocks, blocks_for(max_tokens)))
    return StreamPlan(slots, num_blocks, streams_bytes(costs, slots, num_blocks))

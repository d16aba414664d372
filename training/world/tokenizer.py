"""The tokenizer: byte-level BPE as released, in which each word of the world is one token, and the special tokens with
their released names in their released order behind the ordinary ones.

The thinker's embedding table is made here too, from a seed. It stays as it is: thinker and talker are trained apart,
each with this frozen table, and fit together afterwards.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from services.local.checkpoint.tokenizer import ROLES, TokenIds, add_special_tokens, byte_level
from training.world.words import WORDS

HIDDEN = 192
"""Width of the embedding table, which is the thinker's hidden size."""

TABLE_SEED = 7
TABLE_STD = 0.25
FORM_SHARE = 0.3
"""Forms of a word ("red", " red", "Red") share a direction and differ by so much of their length."""

VOCAB_MULTIPLE = 64


def word_forms(word: str) -> tuple[str, ...]:
    """All forms that are one token each: with a space before and without, in small letters and with a capital."""
    capital = word.capitalize()
    return (f" {word}", word, f" {capital}", capital)


def build_tokenizer() -> tuple[Tokenizer, TokenIds]:
    """Return the tokenizer, and the ids of the special tokens and the roles."""
    tokenizer = byte_level(models.BPE())
    forms = [*(form for word in WORDS for form in word_forms(word)), *ROLES]
    # Without a limit that is reached, training ends when each form is one token.
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16, min_frequency=1, show_progress=False, initial_alphabet=sorted(ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator(forms, trainer)
    ids = add_special_tokens(tokenizer)
    if split := [form for form in forms if len(tokenizer.encode(form, add_special_tokens=False).ids) != 1]:
        raise RuntimeError(f"not one token each: {split}")
    return tokenizer, ids


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return the rows of the embedding table: the tokens, rounded up."""
    return -(-tokenizer.get_vocab_size() // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def embedding_table(tokenizer: Tokenizer) -> Tensor:
    """Return the frozen table, float32 [vocab_size, HIDDEN]: the same for every part that is trained."""
    rows = np.stack([_direction(f"row {row}") for row in range(vocab_size(tokenizer))])
    for word in WORDS:
        shared = _direction(f"word {word}")
        for form in word_forms(word):
            row = tokenizer.encode(form, add_special_tokens=False).ids[0]
            rows[row] = (1 - FORM_SHARE**2) ** 0.5 * shared + FORM_SHARE * rows[row]
    return torch.from_numpy((rows * np.float32(TABLE_STD)).astype(np.float32))


def _direction(name: str) -> NDArray[np.float32]:
    generator = np.random.default_rng([TABLE_SEED, zlib.crc32(name.encode())])
    return generator.standard_normal(HIDDEN).astype(np.float32)

"""The thinker to be trained, and the frozen embedding table that gives its towers their targets."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from services.local.checkpoint.tokenizer import TokenIds
from training.config import make_config
from training.world.tokenizer import build_tokenizer, embedding_table, vocab_size, word_forms


@cache
def tokenizer_and_ids() -> tuple[Tokenizer, TokenIds]:
    return build_tokenizer()


@cache
def table() -> Tensor:
    """The frozen embedding table, float32 [vocabulary, hidden]."""
    return embedding_table(tokenizer_and_ids()[0])


def word_direction(word: str) -> Tensor:
    """The mean of the rows of all of a word's forms, float32 [hidden]: what "red", " red" and "Red" have in common."""
    tokenizer, _ = tokenizer_and_ids()
    rows = [tokenizer.encode(form, add_special_tokens=False).ids[0] for form in word_forms(word)]
    return table()[rows].mean(0)


def new_thinker(seed: int) -> Any:
    """Return an untrained thinker, float32, in which the embedding table is the world's and does not learn."""
    tokenizer, ids = tokenizer_and_ids()
    torch.manual_seed(seed)
    config: Any = make_config(ids, vocab_size(tokenizer), speaks=False)
    thinker: Any = Qwen3OmniMoeThinkerForConditionalGeneration(config.thinker_config)
    thinker.float()
    _spread(thinker)
    embedding = thinker.model.embed_tokens.weight
    with torch.no_grad():
        embedding.copy_(table())
        thinker.lm_head.weight.copy_(table() / table().norm(dim=1, keepdim=True) * 0.3)
    embedding.requires_grad_(False)
    return thinker


def _spread(thinker: Any) -> None:
    """Draw each matrix by its fan-in, so that what comes in comes out at about its size.

    transformers' own 0.02 suits wide layers: here it would drown the convolutions' outputs in the positions.
    """
    with torch.no_grad():
        for module in thinker.modules():
            for name, values in module.named_parameters(recurse=False):
                if values.ndim < 2 or isinstance(module, nn.Embedding):
                    continue
                is_convolution = isinstance(module, nn.Conv2d | nn.Conv3d)
                fan_in = values[0].numel() if is_convolution else values.shape[-1]  # experts are stacked
                values.normal_(std=(1.4 if is_convolution and name == "weight" else 0.7) * fan_in**-0.5)

"""A byte-level BPE tokenizer of 2048 ordinary tokens, with the released tokenizer's special tokens after them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

ORDINARY_TOKENS = 2048
VOCAB_SIZE = 2304
"""Rows of the embedding table: as in the released checkpoint, more than there are tokens."""

# fmt: off
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>", "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>",
    "<tts_text_bos_single>", "<|audio_pad|>",
]
# fmt: on
"""In the order of the released tokenizer, where the first one is 151643."""

PLAIN_ADDED_TOKENS = frozenset(
    SPECIAL_TOKENS[SPECIAL_TOKENS.index("<tool_call>") : SPECIAL_TOKENS.index("<|audio_start|>")]
)
"""Added tokens that the released tokenizer (151657 … 151668) marks not special: skip_special_tokens keeps them."""

ROLES = ("system", "user", "assistant")
"""Each must be one token: the config names their ids."""

MEDIA_TOKENS = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
"""Read by the processor."""


@dataclass(frozen=True)
class TokenIds:
    """Ids by the token's text, of the special tokens and the roles."""

    by_text: dict[str, int]

    def __getitem__(self, text: str) -> int:
        return self.by_text[text]


def write_tokenizer(folder: Path) -> TokenIds:
    """Trains on corpus.txt and writes tokenizer.json, tokenizer_config.json, vocab.json and merges.txt."""
    tokenizer = _trained()
    if (size := tokenizer.get_vocab_size()) != ORDINARY_TOKENS:
        raise RuntimeError(f"corpus.txt gives {size} tokens, {ORDINARY_TOKENS} are needed")
    ids = add_special_tokens(tokenizer)
    write_files(folder, tokenizer, ids)
    return ids


def byte_level(model: models.BPE) -> Tokenizer:
    """Return a tokenizer that takes text apart as the released one does."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_special_tokens(tokenizer: Tokenizer) -> TokenIds:
    """Adds the special tokens behind the ordinary ones. Raises RuntimeError where a role is not one token."""
    tokenizer.add_tokens(
        [AddedToken(text, special=text not in PLAIN_ADDED_TOKENS, normalized=False) for text in SPECIAL_TOKENS]
    )
    ids = {text: tokenizer.encode(text, add_special_tokens=False).ids for text in (*SPECIAL_TOKENS, *ROLES)}
    if split := [text for text, of_text in ids.items() if len(of_text) != 1]:
        raise RuntimeError(f"not one token each: {split}")
    return TokenIds({text: of_text[0] for text, of_text in ids.items()})


def write_files(folder: Path, tokenizer: Tokenizer, ids: TokenIds) -> None:
    """Writes tokenizer.json, tokenizer_config.json, vocab.json and merges.txt."""
    model = json.loads(tokenizer.to_str())["model"]
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(ids.by_text))
    _write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"]), encoding="utf-8"
    )


def _trained() -> Tokenizer:
    corpus = Path(__file__).with_name("corpus.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=ORDINARY_TOKENS,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    roles = ["\n".join(ROLES)] * 100
    tokenizer.train_from_iterator([*corpus, *roles], trainer)
    return tokenizer


def _tokenizer_config(ids: dict[str, int]) -> dict[str, object]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 32768,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "clean_up_tokenization_spaces": False,
        **MEDIA_TOKENS,
        "extra_special_tokens": MEDIA_TOKENS,
        "added_tokens_decoder": {
            str(ids[text]): {
                "content": text,
                "special": text not in PLAIN_ADDED_TOKENS,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for text in SPECIAL_TOKENS
        },
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

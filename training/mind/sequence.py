"""A dialogue as the thinker meets it: the chat template's text, placeholders, positions, and what is to be learned.

Prompt text, placeholders and positions come from the serving processor's and transformers' own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.processor import write_processor
from services.local.checkpoint.tokenizer import write_files
from training.cache import cache_folder
from training.mind.dialogues import Dialogue, Media
from training.mind.model import tokenizer_and_ids
from training.world.tokenizer import HIDDEN

IGNORED = -100
SECONDS_PER_GRID = 1.0
"""Two frames of a film at the two frames a second at which serving samples."""


@dataclass(frozen=True)
class Features:
    """What a tower gave for one medium.

    embeds: [tokens, hidden]. deep: [levels, tokens, hidden] of pictures and films. frames: mel frames of a sound.
    grid: (t, h, w) in patches. sound: what a film with sound plays.
    """

    embeds: Tensor
    deep: Tensor | None = None
    frames: int = 0
    grid: tuple[int, int, int] | None = None
    sound: Features | None = None


@dataclass(frozen=True)
class Example:
    """One dialogue. ids, labels: int64 [tokens]; positions: float32 [3, tokens].

    audio: [audio tokens, hidden]; visual: [visual tokens, hidden]; deep: [levels, visual tokens, hidden], each in the
    order of its placeholders.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    audio: Tensor
    visual: Tensor
    deep: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@cache
def processor(kind: Kind) -> Any:
    """The processor that the finished checkpoint of this kind has."""
    folder = cache_folder("mind") / f"processor-{kind}"
    if not (folder / "processor_config.json").exists():
        folder.mkdir(exist_ok=True)
        write_files(folder, *tokenizer_and_ids())
        write_processor(folder, kind)
    return AutoProcessor.from_pretrained(folder)


def messages_of(dialogue: Dialogue, *, with_last_answer: bool) -> list[dict[str, Any]]:
    """The dialogue in the chat template's form, media as parts without content."""
    messages: list[dict[str, Any]] = []
    if dialogue.system:
        messages.append({"role": "system", "content": dialogue.system})
    for index, turn in enumerate(dialogue.turns):
        parts = [_part(part) for part in turn.parts]
        messages.append({"role": "user", "content": parts})
        if with_last_answer or index + 1 < len(dialogue.turns):
            messages.append({"role": "assistant", "content": turn.cut or turn.answer})
    return messages


def _part(part: str | Media) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": {"speech": "audio", "sound": "audio", "picture": "image", "film": "video"}[part.kind]}


def expanded(text: str, media: Sequence[Features], *, use_audio_in_video: bool, of: Any) -> str:
    """Put as many placeholders as there are tokens in the place of each medium's one."""
    sounds = [one.sound if one.sound else one for one in media if one.sound or not one.grid]
    pictures = [one.grid for one in media if one.grid and not _is_film(one)]
    films = [one.grid for one in media if one.grid and _is_film(one)]
    return of.replace_multimodal_special_tokens(
        [text],
        iter([len(sound.embeds) for sound in sounds]),
        iter([np.array(grid) for grid in pictures]),
        iter([np.array(grid) for grid in films]),
        video_second_per_grid=iter([SECONDS_PER_GRID] * len(films)),
        use_audio_in_video=use_audio_in_video,
        position_id_per_seconds=13,
        seconds_per_chunk=2,
    )[0]


def _is_film(one: Features) -> bool:
    return one.grid is not None and one.grid[0] > 1


def sequence_of(dialogue: Dialogue, found: Mapping[Media, Features], kind: Kind, thinker: Any) -> Example:
    """Build what one dialogue teaches: all its answers; of Thinking, the last one with its thought.

    A single picture is a grid of one moment; films have more.
    """
    of = processor(kind)
    tokenizer, ids = tokenizer_and_ids()
    media = [found[medium] for medium in dialogue.media]
    has_film_sound = any(one.sound for one in media)
    messages = messages_of(dialogue, with_last_answer=False)
    prompt = of.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = dialogue.turns[-1].answer
    target = f"{dialogue.thought}\n</think>\n\n{answer}" if kind is Kind.THINKING else answer
    text = expanded(prompt, media, use_audio_in_video=has_film_sound, of=of)
    before = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    learned = torch.tensor(tokenizer.encode(target + "<|im_end|>", add_special_tokens=False).ids)
    tokens = torch.cat([before, learned])
    labels = torch.cat([_earlier_answers(before, ids, kind, [bool(turn.cut) for turn in dialogue.turns]), learned])
    return Example(
        tokens,
        labels,
        positions_of(tokens, media, thinker, has_film_sound),
        *_in_order(media),
    )


def _earlier_answers(before: Tensor, ids: Any, kind: Kind, is_cut: Sequence[bool]) -> Tensor:
    """Label earlier turns' answers with their ends, but those that were cut.

    Thinking learns its last one alone: the others have no thought.
    """
    labels = torch.full_like(before, IGNORED)
    if kind is Kind.THINKING:
        return labels
    listed = before.tolist()
    is_answer, turn = False, -1
    for index, token in enumerate(listed):
        if is_answer:
            if not is_cut[turn]:
                labels[index] = token
            is_answer = token != ids["<|im_end|>"]
        elif index >= 2 and listed[index - 2 : index] == [ids["<|im_start|>"], ids["assistant"]]:
            is_answer, turn = True, turn + 1  # this token is the line break after the role
    return labels


def positions_of(tokens: Tensor, media: Sequence[Features], thinker: Any, use_audio_in_video: bool) -> Tensor:
    pictures = [one.grid for one in media if one.grid and not _is_film(one)]
    films = [one.grid for one in media if one.grid and _is_film(one)]
    frames = [(one.sound or one).frames for one in media if one.sound or not one.grid]
    positions, _ = thinker.get_rope_index(
        tokens[None],
        torch.tensor(pictures) if pictures else None,
        torch.tensor(films) if films else None,
        torch.ones_like(tokens)[None],
        use_audio_in_video,
        torch.tensor(frames) if frames else None,
        torch.tensor([SECONDS_PER_GRID] * len(films)) if films else None,
    )
    return positions[:, 0].float()


def _in_order(media: Sequence[Features]) -> tuple[Tensor, Tensor, Tensor]:
    audio = [(one.sound or one).embeds for one in media if one.sound or not one.grid]
    visual = [one.embeds for one in media if one.grid]
    deep = [one.deep for one in media if one.deep is not None]
    return (
        torch.cat(audio) if audio else torch.zeros(0, HIDDEN),
        torch.cat(visual) if visual else torch.zeros(0, HIDDEN),
        torch.cat(deep, 1) if deep else torch.zeros(2, 0, HIDDEN),
    )

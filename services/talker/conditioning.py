"""The talker's conditioning, built from token ids and the hidden states of the prompt's media.

The prompt is every user turn whole, then nine tokens for the answer: the assistant header, four pads, bos and the
answer's first token, with the voice's codec ids added. Later tokens of the answer are added to the codes as speech goes
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from antiphon.v1 import common_pb2
from services.common.errors import BadInput
from services.common.user_turns import in_user_turns
from services.talker.checkpoint import SpeechConfig, SpeechModels
from services.talker.cuda_stream import to_device
from services.talker.positions import prompt_positions
from services.talker.talker_model import code_embeds, text_embeds

# "<|im_start|>assistant\n", the header of the answer.
_HEADER_TOKENS = 3
# Tokens of the answer in the prompt: the header, four pads, bos, the first token.
_ANSWER_TOKENS = _HEADER_TOKENS + 6


@dataclass(frozen=True)
class Prompt:
    """One request's validated prompt.

    user_ids: the user turns' ids. media: whether each is a media placeholder, in which case its embedding comes from
    hidden_states [placeholders, thinker hidden size]. header_ids: the answer's header; spoken_ids: tokens of the prompt
    that already belong to the answer. positions: float32 [3, tokens], the nine tokens of the answer included.
    """

    user_ids: list[int]
    media: list[bool]
    hidden_states: Tensor | None
    header_ids: list[int]
    spoken_ids: list[int]
    positions: Tensor
    voice_id: int

    @property
    def num_tokens(self) -> int:
        return len(self.user_ids) + _ANSWER_TOKENS

    @cached_property
    def last_position(self) -> float:
        """The position of the answer's first token; each later token is one further on all axes."""
        return float(self.positions[0, -1])


def read_prompt(
    config: SpeechConfig,
    prompt_ids: Sequence[int],
    *,
    image_grids: Sequence[common_pb2.MediaGrid],
    video_grids: Sequence[common_pb2.MediaGrid],
    hidden_states: Tensor | None,
    voice: str,
) -> Prompt:
    """Validate a request and compute its positions; touches no weights.

    prompt_ids is the thinker's prompt; the grids are those of all its images and videos. Raises BadInput if the voice
    is unknown, an id is outside the vocabulary, the prompt ends in no assistant header, hidden states are not finite,
    or hidden states or grids do not match the prompt.
    """
    # aminmax finds what isfinite would, in a fortieth of its time: this runs on the event loop.
    if (
        hidden_states is not None
        and hidden_states.numel()
        and not bool(torch.stack(hidden_states.aminmax()).isfinite().all())
    ):
        raise BadInput("Hidden states must be finite.", param="hidden_states")
    name = (voice or config.default_voice).lower()
    if name not in config.voices:
        raise BadInput(
            f"Unknown voice {voice!r}. This model has {', '.join(config.voices)}.", code="unknown_voice", param="voice"
        )
    if any(not 0 <= token < config.text_vocab_size for token in prompt_ids):
        raise BadInput(f"Token ids must be between 0 and {config.text_vocab_size - 1}.", param="prompt_token_ids")
    answer = _answer_start(config, prompt_ids)
    user_ids, image_indices, video_indices = _user_turns(config, prompt_ids)
    pads = (config.audio_pad_id, config.image_pad_id, config.video_pad_id)
    media = [token in pads for token in user_ids]
    given = 0 if hidden_states is None else len(hidden_states)
    if given != sum(media):
        raise BadInput(
            f"The user turns have {sum(media)} media placeholders, but {given} hidden states arrived.",
            param="hidden_states",
        )
    if hidden_states is not None and hidden_states.shape[1:] != (config.thinker_hidden_size,):
        raise BadInput(f"Hidden states must be {config.thinker_hidden_size} wide.", param="hidden_states")
    if max(image_indices, default=-1) >= len(image_grids) or max(video_indices, default=-1) >= len(video_grids):
        raise BadInput("The prompt has more images or videos than grids.", param="grids")
    positions = prompt_positions(
        [*user_ids, *[config.tts_pad_id] * _ANSWER_TOKENS],
        [image_grids[index] for index in image_indices],
        [video_grids[index] for index in video_indices],
        config,
    )
    return Prompt(
        user_ids=user_ids,
        media=media,
        hidden_states=hidden_states if given else None,
        header_ids=list(prompt_ids[answer : answer + _HEADER_TOKENS]),
        spoken_ids=list(prompt_ids[answer + _HEADER_TOKENS :]),
        positions=positions,
        voice_id=config.voices[name],
    )


def _answer_start(config: SpeechConfig, prompt_ids: Sequence[int]) -> int:
    for index in range(len(prompt_ids) - _HEADER_TOKENS, -1, -1):
        if prompt_ids[index] == config.im_start_id and prompt_ids[index + 1] == config.assistant_id:
            return index
    raise BadInput("The prompt must end with an assistant header.", param="prompt_token_ids")


def _user_turns(config: SpeechConfig, prompt_ids: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the ids of the user turns, and the indices of their images and videos among all of the prompt's."""
    ids: list[int] = []
    images: list[int] = []
    videos: list[int] = []
    image_count = video_count = 0
    mask = in_user_turns(prompt_ids, im_start=config.im_start_id, user=config.user_id)
    for index, (token, in_user_turn) in enumerate(zip(prompt_ids, mask.tolist(), strict=True)):
        follower = prompt_ids[index + 1] if index + 1 < len(prompt_ids) else -1
        if in_user_turn:
            ids.append(token)
        if token == config.vision_start_id:
            if follower == config.image_pad_id:
                if in_user_turn:
                    images.append(image_count)
                image_count += 1
            elif follower in (config.video_pad_id, config.audio_start_id):
                if in_user_turn:
                    videos.append(video_count)
                video_count += 1
    return ids, images, videos


class Conditioner:
    """Makes the talker's input embeddings, [tokens, hidden size], on the models' device."""

    def __init__(self, models: SpeechModels) -> None:
        self._models, self._config = models, models.config

    @torch.inference_mode()
    def text_embeds(self, ids: Sequence[int]) -> Tensor:
        tokens = to_device(ids, self._models.device, torch.int64)
        return text_embeds(self._models.talker, self._models.text_embedding, tokens)

    @torch.inference_mode()
    def prompt_embeds(self, prompt: Prompt) -> Tensor:
        """Return the embeddings of the prompt but its last token, which is `first_embed` plus the answer's first token:
        [prompt.num_tokens - 1, hidden size].

        No token of the answer is needed, so a talker prefills these while the thinker still generates its first.
        """
        config, device = self._config, self._models.device
        user = self.text_embeds(prompt.user_ids)
        if prompt.hidden_states is not None:
            media = [index for index, is_media in enumerate(prompt.media) if is_media]
            hidden = to_device(prompt.hidden_states, device).to(self._models.dtype)
            user.index_copy_(0, to_device(media, device), self._models.talker.hidden_projection(hidden))
        text = self.text_embeds([*prompt.header_ids, *[config.tts_pad_id] * 4, config.tts_bos_id])
        text[_HEADER_TOKENS:] += self._codec_embeds(
            config.codec_nothink_id,
            config.codec_think_bos_id,
            config.codec_think_eos_id,
            prompt.voice_id,
            config.codec_pad_id,
        )
        return torch.cat((user, text))

    @torch.inference_mode()
    def first_embed(self) -> Tensor:
        """Return the codec embedding that is added to the answer's first token: [hidden size]."""
        return self._codec_embeds(self._config.codec_bos_id)[0]

    @torch.inference_mode()
    def frame_embeds(self, codes: Tensor) -> Tensor:
        """Return the embeddings of frames, int64 [frames, codebooks], which are added to the tokens that follow."""
        return code_embeds(self._models.talker, to_device(codes, self._models.device))

    def _codec_embeds(self, *ids: int) -> Tensor:
        return self._models.talker.model.codec_embedding(to_device(ids, self._models.device))

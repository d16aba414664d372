"""The talker as transformers has it, its inputs as the server makes them, and its speech by free running.

An answer's words come in one a frame, while a word lasts about four frames: speech lags its text, and the talker must
remember what it has yet to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTalkerConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeTalkerForConditionalGeneration

from services.local.checkpoint.architecture import CODEBOOKS, talker_config
from services.local.checkpoint.tokenizer import TokenIds
from training import config
from training.config import CODEBOOK, SPEAKERS
from training.world.tokenizer import build_tokenizer, embedding_table

MAX_FRAMES = 110


@dataclass(frozen=True)
class Sampling:
    """The server's defaults."""

    temperature: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.05
    predictor_top_k: int = 50
    predictor_top_p: float = 0.8


class TinyTalker(nn.Module):
    """`talker`, with the frozen table of the thinker's text embeddings beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokenizer, self.ids = build_tokenizer()
        self.talker: Any = Qwen3OmniMoeTalkerForConditionalGeneration(_config(self.ids)).float()
        self.talker.model.config._attn_implementation = "sdpa"
        for name, parameter in self.talker.named_parameters():
            _begin(name, parameter, layers=self.talker.config.text_config.num_hidden_layers)
        self.register_buffer("table", embedding_table(self.tokenizer), persistent=False)
        self.table: Tensor

    def text(self, ids: Tensor) -> Tensor:
        """Return the talker's embeddings of text: int64 [...] → [..., hidden size]."""
        return self.talker.text_projection(functional.embedding(ids, self.table))

    def codec(self, ids: Tensor) -> Tensor:
        return self.talker.model.codec_embedding(ids)

    def frames(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of code 0, and the sums of the 15 others': int64 [..., 16] → twice [..., hidden]."""
        residual = self.talker.code_predictor.model.codec_embedding
        rest = torch.stack([residual[group - 1](codes[..., group]) for group in range(1, CODEBOOKS)]).sum(0)
        return self.codec(codes[..., 0]), rest

    def frame_embeds(self, codes: Tensor) -> Tensor:
        """Return what the talker is fed of frames: int64 [..., 16] → [..., hidden size]."""
        first, rest = self.frames(codes)
        return first + rest

    def user_turn(self, question: str, media: Tensor | None = None) -> Tensor:
        """Return the embeddings of a user turn, [tokens, hidden size].

        media: hidden states of a medium in front of the question, [placeholders, HIDDEN].
        """
        ids = self.ids
        parts = [self.text(torch.tensor(self.encode("<|im_start|>user\n")))]
        if media is not None:
            around = self.text(torch.tensor([ids["<|audio_start|>"], ids["<|audio_end|>"]]))
            parts += [around[:1], self.talker.hidden_projection(media), around[1:]]
        parts.append(self.text(torch.tensor(self.encode(question + "<|im_end|>\n"))))
        return torch.cat(parts)

    def answer_start(self, voice: str) -> Tensor:
        """Return the eight embeddings before the answer's first token, [8, hidden size]."""
        ids = self.ids
        header = self.encode("<|im_start|>assistant\n")
        text = self.text(torch.tensor([*header, *[ids["<tts_pad>"]] * 4, ids["<tts_text_bos>"]]))
        control = self.codec(
            torch.tensor(
                [
                    config.CODEC_NOTHINK,
                    config.CODEC_THINK_BOS,
                    config.CODEC_THINK_EOS,
                    SPEAKERS[voice],
                    config.CODEC_PAD,
                ]
            )
        )
        return torch.cat((text[:3], text[3:] + control))

    def spoken(self, answer: str, steps: int) -> list[int]:
        """Return the text token of each step: the answer's, then the end of text, then padding."""
        ids = [*self.encode(answer), self.ids["<tts_text_eod>"]]
        return (ids + [self.ids["<tts_pad>"]] * steps)[:steps]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def backbone(self, embeds: Tensor) -> Tensor:
        """Return hidden states after the final norm: [batch, tokens, hidden size], same shape."""
        return self.talker.model(inputs_embeds=embeds, use_cache=False).last_hidden_state

    def attended(self, embeds: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return `backbone`'s hidden states, and each layer's attention weights: [batch, heads, tokens, tokens].

        Raises RuntimeError unless attention is "eager", which alone records them.
        """
        out = self.talker.model(inputs_embeds=embeds, use_cache=False, output_attentions=True)
        if not out.attentions or out.attentions[0] is None:
            raise RuntimeError("The attention weights are recorded only by the eager attention.")
        return out.last_hidden_state, out.attentions

    def residual_logits(self, hidden: Tensor, codes: Tensor, inputs: Tensor) -> Tensor:
        """Return the predictor's logits of codes 1 … 15, or of fewer: [frames, count - 1, CODEBOOK].

        hidden: of the backbone, [frames, hidden size]. codes, inputs: the first `count` of 16, int64 [frames, count];
        inputs are what it is fed, of which the last is not used.
        """
        predictor = self.talker.code_predictor
        tables = predictor.model.codec_embedding
        fed = [tables[group - 1](inputs[:, group]) for group in range(1, inputs.shape[1] - 1)]
        embeds = torch.stack([hidden, self.codec(codes[:, 0]), *fed], 1)
        out = predictor.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, 1:]
        heads = torch.stack([head.weight for head in predictor.lm_head[: inputs.shape[1] - 1]])
        return torch.einsum("ngh,gvh->ngv", out, heads)

    @torch.inference_mode()
    def speak(
        self,
        answers: Sequence[str],
        voice: str,
        *,
        seed: int,
        sampling: Sampling | None = None,
        question: str = "what is that?",
        max_frames: int = MAX_FRAMES,
    ) -> list[Tensor]:
        """Say answers by free running, as the server does; return codes of each, int64 [frames, 16].

        All run in one batch. A speech that does not end is cut at max_frames.
        """
        how = sampling or Sampling()
        generator = torch.Generator().manual_seed(seed)
        count = len(answers)
        spoken = torch.tensor([self.spoken(answer, max_frames + 1) for answer in answers])
        prompt = torch.cat((self.user_turn(question), self.answer_start(voice)))
        first = self.text(spoken[:, 0]) + self.codec(torch.tensor(config.CODEC_BOS))
        embeds = torch.cat((prompt.expand(count, -1, -1), first[:, None]), 1)
        cache = DynamicCache(config=self.talker.model.config)
        is_said = torch.zeros(count, CODEBOOK + 1024, dtype=torch.bool)
        ends = torch.full((count,), max_frames)
        frames: list[Tensor] = []
        for step in range(max_frames):
            hidden = self.talker.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
            logits = self.talker.codec_head(hidden[:, -1])
            first_code = _draw_first(logits, is_said, how, generator)
            is_said.scatter_(1, first_code[:, None], value=True)
            ends = torch.where((first_code == config.CODEC_EOS) & (ends == max_frames), step, ends)
            if bool((ends <= step).all()):
                break
            first_code = first_code.clamp(max=CODEBOOK - 1)  # of those that have ended: not used
            codes = self._draw_residual(hidden[:, -1], first_code, how, generator)
            frames.append(codes)
            embeds = (self.frame_embeds(codes) + self.text(spoken[:, step + 1]))[:, None]
        if not frames:
            return [torch.zeros(0, CODEBOOKS, dtype=torch.int64)] * count
        said = torch.stack(frames, 1)
        return [said[index, : int(end)] for index, end in enumerate(ends)]

    def _draw_residual(self, hidden: Tensor, first: Tensor, how: Sampling, generator: torch.Generator) -> Tensor:
        predictor = self.talker.code_predictor
        cache = DynamicCache(config=predictor.model.config)
        embeds, codes = torch.stack((hidden, self.codec(first)), 1), [first]
        for group in range(CODEBOOKS - 1):
            out = predictor.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
            scores = _top_p(_top_k(predictor.lm_head[group](out[:, -1]), how.predictor_top_k), how.predictor_top_p)
            codes.append(torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0])
            embeds = predictor.model.codec_embedding[group](codes[-1])[:, None]
        return torch.stack(codes, 1)


def _config(ids: TokenIds) -> Qwen3OmniMoeTalkerConfig:
    return Qwen3OmniMoeTalkerConfig(**talker_config(config.SIZES, ids))


@torch.no_grad()
def _begin(name: str, parameter: Tensor, *, layers: int) -> None:
    """Draw a parameter so that layers keep the size of what they are given, and what adds to the residual is small."""
    if parameter.ndim < 2:
        return
    if "embedding" in name:
        std = 0.3 if "predictor" not in name else 0.1
    elif "gate.weight" in name or "expert_gate" in name:
        std = 0.02
    else:
        std = parameter.shape[-1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj", "down_proj.weight")):
            std *= (2 * layers) ** -0.5
    parameter.normal_(std=std)


def _draw_first(logits: Tensor, is_said: Tensor, how: Sampling, generator: torch.Generator) -> Tensor:
    penalised = torch.where(logits < 0, logits * how.repetition_penalty, logits / how.repetition_penalty)
    scores = torch.where(is_said, penalised, logits)
    control = torch.arange(scores.shape[1])
    scores = scores.masked_fill((control >= CODEBOOK) & (control != config.CODEC_EOS), -torch.inf)
    scores = _top_k(scores / how.temperature, how.top_k)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]


def _top_k(scores: Tensor, count: int) -> Tensor:
    return scores.masked_fill(scores < scores.topk(count).values[:, -1:], -torch.inf)


def _top_p(scores: Tensor, share: float) -> Tensor:
    values, order = scores.sort(descending=True)
    probabilities = values.softmax(-1)
    is_beyond = probabilities.cumsum(-1) - probabilities > share
    return scores.scatter(1, order, values.masked_fill(is_beyond, -torch.inf))

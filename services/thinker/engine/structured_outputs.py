"""vLLM's structured outputs with three changes: for answers that began on another worker, for chains of thought and
for special tokens.

1. An answer that began on another worker comes with that worker's tokens at the end of its prompt (model_runner.py).
   The grammar of a new request would begin anew after them. Here it takes them first.
2. vLLM finds the end of a chain of thought with a parser for each family of models, which reads the prompt. Here the
   request itself says whether its chain of thought has ended, and which token ends it.
3. xgrammar takes a special token for the text of its name, and allows "<|im_start|>" in every string. The answer's text
   would lack it. Here no grammar allows a special token, but for those that end the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xgrammar
from vllm.v1.engine import core
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend

from services.thinker.engine.patching import replace
from services.thinker.sampling import END_OF_THOUGHT, STRUCTURED_TOKENS


class EndOfThought:
    """Takes the place of vLLM's ReasoningParser: one token ends the chain of thought."""

    def __init__(self, token: int) -> None:
        self._token = token

    def is_reasoning_end(self, input_ids: Sequence[int]) -> bool:
        return self._token in input_ids

    def is_reasoning_end_streaming(self, input_ids: Sequence[int], delta_ids: Sequence[int]) -> bool:
        return self._token in delta_ids


class ThinkerGrammars(XgrammarBackend):
    def __post_init__(self) -> None:
        super().__post_init__()
        tokenizer: Any = self.tokenizer
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=self.vocab_size)
        vocabulary: list[Any] = list(info.decoded_vocab)
        for token, added in tokenizer.added_tokens_decoder.items():
            if added.special:
                vocabulary[token] = b""
        without_special = xgrammar.TokenizerInfo(
            vocabulary,
            xgrammar.VocabType.RAW,
            vocab_size=info.vocab_size,
            stop_token_ids=info.stop_token_ids,
            add_prefix_space=info.add_prefix_space,
        )
        limit_bytes: int = self.compiler.cache_limit_bytes
        self.compiler = xgrammar.GrammarCompiler(without_special, cache_limit_bytes=limit_bytes)


class ThinkerStructuredOutputs(StructuredOutputManager):
    def grammar_init(self, request: Request) -> None:
        if self.backend is None and request.structured_output_request is not None:
            vocab_size = self.vllm_config.model_config.get_vocab_size()
            tokenizer: Any = self.tokenizer
            self.backend = ThinkerGrammars(self.vllm_config, tokenizer=tokenizer, vocab_size=vocab_size)
        structured = request.structured_output_request
        if structured is not None:
            structured.reasoning_ended = END_OF_THOUGHT not in _extra_args(request)
        super().grammar_init(request)

    def _get_reasoner(self, request: Request) -> Any:
        token = _extra_args(request).get(END_OF_THOUGHT)
        return None if token is None else EndOfThought(token)

    def _create_grammar(self, request: Request) -> StructuredOutputGrammar:
        grammar = super()._create_grammar(request)
        earlier: int = _extra_args(request).get(STRUCTURED_TOKENS, 0)
        if earlier and not grammar.accept_tokens(request.request_id, (request.prompt_token_ids or [])[-earlier:]):
            raise ValueError("the answer so far does not have the structure that is asked for")
        return grammar


def _extra_args(request: Request) -> dict[str, Any]:
    params = request.sampling_params
    return (params and params.extra_args) or {}


replace(core, "StructuredOutputManager", ThinkerStructuredOutputs, EngineCore.__init__)

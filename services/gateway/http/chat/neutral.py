"""Fields of chat requests that have no effect here: those of OpenAI, vLLM and DashScope that clients send anyway.

Clients and load tools send many fields at values that ask for nothing. A field in NEUTRAL passes with null and with the
values listed for it, and is refused by its name with any other: what it asks for is not served. One in IGNORED passes
with any value: it cannot change the answer. All other fields are in schema.py, or unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, LiteralString

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

# Field → its neutral values beside null. A float also stands for the same whole number.
NEUTRAL: dict[str, tuple[object, ...]] = {
    # OpenAI
    "function_call": ("none", "auto"),
    "functions": ([],),
    "moderation": (),
    "prediction": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM
    "allowed_token_ids": (),
    "bad_words": ([],),
    "best_of": (1,),
    "echo": (False,),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logprob_token_ids": (),
    "priority": (0,),
    "prompt_logprobs": (),
    "repetition_detection": (),
    "return_mm_kwargs": (False,),
    "return_prompt_text": (False,),
    "return_token_offsets": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "truncation_side": (),
    "use_beam_search": (False,),
    "watermarking": (),
    # DashScope
    "enable_code_interpreter": (False,),
    "enable_search": (False,),
    "result_format": ("message",),
    "search_options": (),
    "thinking_budget": (),
    "vl_high_resolution_images": (False,),
}

# vLLM's fields that reach into the engine or the chat template. The operator sets what they set.
ENGINE_FIELDS: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "cache_salt": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "ec_transfer_params": (),
    "kv_transfer_params": (),
    "logits_processors": ([],),
    "media_io_kwargs": ({},),
    "mm_payload": ("tensors",),
    "prompt_embeds": (),
    "routed_experts_prompt_start": (0,),
    "stream_interval": (),
    "vllm_xargs": ({},),
}

# Former names → what serves the same.
RENAMED = {
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
}

IGNORED = frozenset({
    "metadata", "prompt_cache_options", "prompt_cache_retention", "request_id",
    "safety_identifier", "service_tier", "session_id", "store", "user",
})  # fmt: skip

FIELDS = IGNORED | NEUTRAL.keys() | ENGINE_FIELDS.keys()


def without_neutral(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the fields of a request without those of this module.

    Raise PydanticCustomError where one asks for something: its context has the field and what is accepted.
    """
    return without(fields, NEUTRAL, IGNORED)


def without(
    fields: Mapping[Any, Any], neutral: Mapping[str, tuple[object, ...]], ignored: Collection[str]
) -> dict[Any, Any]:
    """Return the fields without those that are neutral or ignored, and without ENGINE_FIELDS. Raise as
    `without_neutral`."""
    tables: dict[LiteralString, Mapping[str, tuple[object, ...]]] = {
        "unsupported_parameter": neutral,
        "operators_parameter": ENGINE_FIELDS,
    }
    for kind, table in tables.items():
        for name, accepted in table.items():
            if name in fields and not is_neutral(fields[name], accepted):
                told = {"field": name, "accepted": accepted, "renamed": RENAMED.get(name, "")}
                raise PydanticCustomError(kind, "this value is not served", told)
    known = (ignored, neutral, ENGINE_FIELDS)
    return {name: value for name, value in fields.items() if not any(name in some for some in known)}


def neutral_properties(
    neutral: Mapping[str, tuple[object, ...]] = NEUTRAL, ignored: Collection[str] = IGNORED
) -> dict[str, Any]:
    """Return the JSON Schema of each field of such tables, and of ENGINE_FIELDS."""
    properties: dict[str, Any] = {name: {"description": "changes nothing"} for name in sorted(ignored)}
    for about, table in (
        ("not served: it passes at these values", neutral),
        ("set by the operator: it passes at these values", ENGINE_FIELDS),
    ):
        properties |= {name: {"enum": [None, *values], "description": about} for name, values in table.items()}
    return properties


def only(*accepted: object) -> BeforeValidator:
    """Return a validator for a field that has no effect: it takes null and the accepted values."""

    def check(value: Any) -> Any:
        if not is_neutral(value, accepted):
            raise PydanticCustomError("unsupported_parameter", "this value is not served", {"accepted": accepted})
        return value

    described: Any = Annotated[Any, WithJsonSchema({"enum": [None, *accepted]})]
    return BeforeValidator(check, json_schema_input_type=described)


def is_neutral(value: object, accepted: Iterable[object]) -> bool:
    """Return whether it is null or one of the JSON values that are accepted."""
    return value is None or any(_equal(value, one) for one in accepted)


def _equal(value: object, one: object) -> bool:
    """Return whether both are the same JSON value: true is not 1, but 1 is 1.0."""
    return value == one and isinstance(value, bool) == isinstance(one, bool)

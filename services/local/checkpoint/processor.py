"""The processor's files: image, video and audio front ends at the released rates, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    WhisperFeatureExtractor,
)

from services.local.checkpoint.kinds import Kind

MERGED_PATCH_PIXELS = 32 * 32
"""One image token covers 2 × 2 patches of 16 × 16 pixels."""

_CONTENT_MACRO = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'audio' or 'audio' in part or 'audio_url' in part or 'input_audio' in part -%}\
<|audio_start|><|audio_pad|><|audio_end|>
{%- elif part.type == 'video' or 'video' in part or 'video_url' in part -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in part -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
"""

_TOOLS = """\
{%- set first = messages[0] if messages and messages[0].role == 'system' -%}
{%- if tools -%}
<|im_start|>system
{% if first %}{{ render(first.content) }}

{% endif -%}
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools -%}{{ '\\n' }}{{ tool | tojson }}{%- endfor -%}{{ '\\n' -}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% endif -%}
"""
"""Tools are in the first system turn, in the released template's words."""

_CALLS = """\
{%- macro render_calls(message, content) -%}
{{ content }}
{%- for call in message.tool_calls or [] -%}
{%- set function = call.function or call -%}
{%- if content or not loop.first -%}{{ '\\n' }}{%- endif -%}
<tool_call>
{"name": "{{ function.name }}", "arguments": {{ function.arguments if function.arguments is string else \
function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
{%- endmacro -%}
"""

_OTHER_TURNS = """\
{%- if tools and loop.first and message.role == 'system' -%}
{%- elif message.role == 'tool' -%}
{%- if loop.first or loop.previtem.role != 'tool' -%}<|im_start|>user{%- endif -%}{{ '\\n' -}}
<tool_response>
{{ render(message.content) }}
</tool_response>
{%- if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>
{% endif -%}
"""
"""Results of tools are in a turn of the user, and those that follow each other in one."""

_MESSAGES = """\
{%- for message in messages -%}
@other_turns@
{%- else -%}
<|im_start|>{{ message.role }}
{{ render_calls(message, render(message.content)) }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""

_THINKING_MESSAGES = """\
{%- for message in messages -%}
@other_turns@
{%- else -%}
{%- set content = render(message.content) -%}
{%- if message.role == 'assistant' and '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
<|im_start|>{{ message.role }}
{{ render_calls(message, content) }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
<think>
{% endif -%}
"""


def chat_template(kind: Kind) -> str:
    """The Jinja template. Thinking's prompt opens the chain of thought, so that its answers hold </think> alone."""
    messages = _THINKING_MESSAGES if kind is Kind.THINKING else _MESSAGES
    return _CONTENT_MACRO + _CALLS + _TOOLS + messages.replace("@other_turns@\n", _OTHER_TURNS)


def write_processor(folder: Path, kind: Kind) -> None:
    """Writes processor_config.json and chat_template.jinja beside the tokenizer that stands in `folder`."""
    vision: dict[str, Any] = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 4 * MERGED_PATCH_PIXELS, "longest_edge": 256 * MERGED_PATCH_PIXELS},
    }
    template = chat_template(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    processor = Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        video_processor=Qwen2VLVideoProcessor(**vision),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128,
            sampling_rate=16_000,
            hop_length=160,
            n_fft=400,
            chunk_length=300,
            return_attention_mask=True,
            dither=0.0,
        ),
        tokenizer=tokenizer,
        chat_template=template,
    )
    processor.save_pretrained(folder)

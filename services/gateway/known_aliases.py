"""Names of OpenAI's and DashScope's models and voices that clients send, and what stands for them here by default."""

from __future__ import annotations

# Men's and women's voices, as they sound there.
_OPENAI_VOICES = {
    "alloy": "ethan", "ash": "aiden", "ballad": "aiden", "cedar": "ethan", "coral": "chelsie", "echo": "ethan",
    "fable": "aiden", "marin": "chelsie", "nova": "chelsie", "onyx": "ethan", "sage": "chelsie", "shimmer": "chelsie",
    "verse": "aiden",
}  # fmt: skip
# Those of qwen3-omni-flash that the checkpoint does not have.
_DASHSCOPE_VOICES = {
    "cherry": "chelsie", "dylan": "aiden", "elias": "chelsie", "eric": "ethan", "jada": "chelsie",
    "jennifer": "chelsie", "katerina": "chelsie", "kiki": "chelsie", "li": "ethan", "marcus": "ethan",
    "nofish": "aiden", "peter": "ethan", "rocky": "aiden", "roy": "ethan", "ryan": "aiden", "serena": "chelsie",
    "sunny": "chelsie",
}  # fmt: skip
VOICES = _OPENAI_VOICES | _DASHSCOPE_VOICES
MODELS = {
    "qwen3-omni-flash": "kind:instruct",
    "qwen3-omni-flash-realtime": "kind:instruct",
    "qwen3-omni-30b-a3b-captioner": "kind:captioner",
}

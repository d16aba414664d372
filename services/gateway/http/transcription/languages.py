"""What the model is told to do with a recording: the prompts of its documents, by language."""

from __future__ import annotations

from collections.abc import Mapping

# The languages of speech that the documents list, by code.
LANGUAGES: Mapping[str, str] = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "ms": "Malay",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
_CHINESE = ("zh", "yue")
LYRICS_PROMPT = (
    "Transcribe the song lyrics into text without any punctuation, separate lines with line breaks, and output only the"
    " lyrics without additional explanations."
)


def transcription_prompt(language: str | None, prompt: str) -> str:
    """Return the task. `prompt`: what the text may continue, or whose words and style it may have; "" = nothing."""
    if language is not None and language.lower() in _CHINESE:
        task, before = "请将这段中文语音转换为纯文本。", "它可能接续以下文字,或使用其中的词语和风格:"
    else:
        task, before = "Transcribe the audio into text.", " It may continue this text, or have its words and style: "
    return task + (before + prompt if prompt else "")


def translation_prompt(language: str | None, to_language: str, prompt: str) -> str:
    """Return the task, as `transcription_prompt`."""
    source = f"{LANGUAGES[language.lower()]} " if language is not None else ""
    target = LANGUAGES[to_language.lower()]
    task = f"Listen to the provided {source}speech and produce a translation in {target} text."
    return task + (f" It may continue this text, or have its words and style: {prompt}" if prompt else "")

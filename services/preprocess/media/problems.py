"""What can be wrong with media. The decoders say it; the service adds which part of the request it was."""

from __future__ import annotations


class MediaProblem(Exception):
    """The media can't be used. `code` is stable; `message` tells the client what is wrong and what is accepted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_INVALID, _TOO_LARGE, _TOO_LONG = "invalid_media", "media_too_large", "context_length_exceeded"
MAX_MESSAGE_CHARACTERS = 500


def problem_from(code: str, message: str) -> MediaProblem:
    """The problem that a decoder names. Raise ValueError where it is none of ours: a file may speak through it."""
    if code not in (_INVALID, _TOO_LARGE, _TOO_LONG):
        raise ValueError("the decoder names no problem that is known")
    return MediaProblem(code, message[:MAX_MESSAGE_CHARACTERS])


def invalid(message: str) -> MediaProblem:
    """The file is corrupt, empty, truncated, mislabelled or not supported."""
    return MediaProblem(_INVALID, message)


def too_large(message: str) -> MediaProblem:
    """The file is over one of the operator's limits."""
    return MediaProblem(_TOO_LARGE, message)


def too_many_tokens(message: str) -> MediaProblem:
    """The item alone is longer than the model's context."""
    return MediaProblem(_TOO_LONG, message)


def breaks_decoder() -> MediaProblem:
    return invalid("The file breaks its decoder. Send a file that other programs can play or show.")

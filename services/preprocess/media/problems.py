"""What can be wrong with media. The decoders say it; the service adds which part of the request it was."""

from __future__ import annotations


class MediaProblem(Exception):
    """The media can't be used. `code` is stable; `message` tells the client what is wrong and what is accepted."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> MediaProblem:
    """The file is corrupt, empty, truncated, mislabelled or not supported."""
    return MediaProblem("invalid_media", message)


def too_large(message: str) -> MediaProblem:
    """The file is over one of the operator's limits."""
    return MediaProblem("media_too_large", message)


def too_many_tokens(message: str) -> MediaProblem:
    """The item alone is longer than the model's context."""
    return MediaProblem("context_length_exceeded", message)


def breaks_decoder() -> MediaProblem:
    return invalid("The file breaks its decoder. Send a file that other programs can play or show.")

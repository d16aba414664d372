"""What can be wrong with media, as the decoders say it; the service adds which part of the request it was."""

from __future__ import annotations


class MediaProblem(Exception):
    """The media can't be used. `code` is stable, `message` is for the client and completes "<part>: …"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> MediaProblem:
    """Corrupt, empty, truncated, mislabelled or not supported."""
    return MediaProblem("invalid_media", message)


def too_large(message: str) -> MediaProblem:
    """Over one of the operator's limits."""
    return MediaProblem("media_too_large", message)


def too_many_tokens(message: str) -> MediaProblem:
    """Alone longer than the model's context."""
    return MediaProblem("context_length_exceeded", message)

"""What decoding a file costs, in seconds of processor time, from the work that its headers show."""

from __future__ import annotations

from services.preprocess.media.work import Work

# Of one fast core. What a real file takes here is up to OVERRUN times as much: cores differ, and so do codecs.
PIXELS_PER_S = 150e6
FILM_PIXELS_PER_S = 400e6
RESIZED_PIXELS_PER_S = 200e6
SAMPLES_PER_S = 150e6
OVERRUN = 10
# What any file may take: the start of a codec, a first use of the memory.
FLOOR_S = 3.0
# For the headers of a job's files: a film's are as many as its packets.
LOOK_CPU_S = 10.0
# Up to here a file is small: a photograph, a minute of sound. It does not wait for large ones.
SMALL_S = 0.3
# Of large jobs, as nice(1) has it: small ones and the service itself go first.
LARGE_NICENESS = 10


def price_s(work: Work) -> float:
    """Return seconds on a fast core."""
    return (
        work.pixels / PIXELS_PER_S
        + work.film_pixels / FILM_PIXELS_PER_S
        + work.resized / RESIZED_PIXELS_PER_S
        + work.samples / SAMPLES_PER_S
    )


def effort(work: Work, most_s: float) -> tuple[float, int]:
    """Return the processor time that a job may take, at most `most_s`, and how nice it is to others."""
    price = price_s(work)
    return allowed_s(price, most_s), 0 if price <= SMALL_S else LARGE_NICENESS


def allowed_s(price: float, most_s: float) -> float:
    """Return the processor time that a job of this price may take, at most `most_s`."""
    return min(most_s, FLOOR_S + OVERRUN * price)

"""Numbers in words."""

from __future__ import annotations

UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number(value: int) -> str:
    """Return a number in words, -100 … 100: "minus three", "forty two", "one hundred"."""
    if not -100 <= value <= 100:
        raise ValueError(f"{value} is not between -100 and 100")
    if value < 0:
        return f"minus {number(-value)}"
    if value == 100:
        return "one hundred"
    if value < 20:
        return UNITS[value]
    tens, units = divmod(value, 10)
    return TENS[tens - 2] + (f" {UNITS[units]}" if units else "")

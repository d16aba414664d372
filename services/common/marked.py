"""Generated parts of pages, between the comments `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""

from __future__ import annotations


def with_part(page: str, name: str, text: str) -> str:
    """Return the page with `text`, whole lines, as its part NAME."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{text}{end}{after}"

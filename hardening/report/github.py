"""GitHub-flavoured markdown, safe to hold names from outside."""

import re
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; its cells are markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def one_line(text: str) -> str:
    """The printable part of a text, without line breaks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape(text: str) -> str:
    """Names come from outside: they may hold no markup, no link, no picture, no second line.

    Brackets of intervals stay readable: a bracket is a link only before `(` or `:`, both escaped.
    """
    return re.sub(r"([\\`*_{}<>#!|~]|\](?=[(:\[])|\[(?=[^\d+-]))", r"\\\1", one_line(text))

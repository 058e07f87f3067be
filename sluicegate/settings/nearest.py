"""Finds the name that a misspelt one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names the nearest known name, else all of them."""
    names = sorted(known)
    if not names:
        return ""
    close = get_close_matches(name.casefold(), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"

"""Cuts a text into pieces that read well on their own, whatever the text is like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from html_to_markdown import ConversionOptions, convert
from semantic_text_splitter import MarkdownSplitter, TextSplitter

_MARKDOWN = frozenset({"text/markdown", "text/x-markdown"})
_HTML = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Characters `start` to `end` (exclusive) of the text that was split."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """Where the piece ends."""
        return self.start + len(self.text)


def split(text: str, media_type: str, most_characters: int) -> tuple[Piece, ...]:
    """Return the pieces in order, each of at most `most_characters`; white space between them is dropped.

    HTML becomes Markdown first, and offsets are then those of the Markdown; what is nested deeper than
    a thousand elements is lost. Call it in a thread: 900 kB took up to 0.7 s.
    """
    kind = media_type.partition(";")[0].strip().lower()
    if kind in _HTML:
        text = convert(text, ConversionOptions(extract_metadata=False)).content or ""
    is_markdown = kind in _MARKDOWN or kind in _HTML
    splitter = MarkdownSplitter(most_characters) if is_markdown else TextSplitter(most_characters)
    return tuple(
        Piece(start=offset + start, text=piece)
        for offset, part in _bounded_words(text, most_characters)
        for start, piece in splitter.chunk_indices(part)
    )


def _bounded_words(text: str, most_characters: int) -> Iterator[tuple[int, str]]:
    """Cut inside words that are longer than a piece: the splitter's time grows with their square."""
    begin = 0
    for word in re.finditer(rf"\S{{{most_characters + 1},}}", text):
        for cut in range(word.start() + most_characters, word.end(), most_characters):
            yield begin, text[begin:cut]
            begin = cut
    yield begin, text[begin:]

"""Answers that depend on the question alone: the same prompt always gets the same answer.

A chat is answered with words and numbers of its last message; a call that asks for JSON gets an object with
`summary` (its first sentences) and `tags` (its frequent words).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import orjson

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[^\W\d_]{4,24}")
# Bounded, so that a text of a thousand hyphens is still read in no time.
_NUMBER = re.compile(r"\b[\w-]{0,20}\d[\w.:/-]{0,20}")
_SUMMARY_CHARACTERS = 240
_MOST_TAGS = 5
_MOST_QUOTED = 3
_READ_CHARACTERS = 20_000
_COMMON = frozenset(
    {
        "about",
        "after",
        "again",
        "also",
        "been",
        "before",
        "being",
        "between",
        "both",
        "could",
        "does",
        "each",
        "from",
        "have",
        "having",
        "here",
        "into",
        "just",
        "like",
        "more",
        "most",
        "much",
        "must",
        "need",
        "only",
        "other",
        "over",
        "please",
        "same",
        "should",
        "some",
        "such",
        "than",
        "thank",
        "thanks",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "under",
        "until",
        "very",
        "want",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "will",
        "with",
        "would",
        "your",
        "yours",
    }
)
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a call asked, whatever its format: all text of the prompt, and the last message of the user."""

    model: str
    prompt: str
    last_message: str
    message_count: int
    max_tokens: int | None
    wants_json: bool

    @property
    def prompt_tokens(self) -> int:
        """The prompt's tokens at four bytes a token, rounded up."""
        return tokens_of(self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A text, its tokens, and whether max_tokens cut it."""

    text: str
    tokens: int
    is_cut: bool


def tokens_of(text: str) -> int:
    """Return the tokens of a text at four bytes a token, rounded up."""
    return -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)


def answer(question: Question) -> Answer:
    """Return the one answer to this question."""
    text = _index_entry(question) if question.wants_json else _chat_reply(question)
    tokens = tokens_of(text)
    if question.max_tokens is None or tokens <= question.max_tokens:
        return Answer(text=text, tokens=tokens, is_cut=False)
    kept = text.encode(errors="replace")[: question.max_tokens * _BYTES_PER_TOKEN].decode(errors="ignore")
    return Answer(text=kept, tokens=question.max_tokens, is_cut=True)


def _index_entry(question: Question) -> str:
    text = question.last_message[:_READ_CHARACTERS]
    counted = Counter(_words(text))
    tags = sorted(counted, key=lambda word: (-counted[word], word))[:_MOST_TAGS]
    return orjson.dumps({"summary": _summary(text), "tags": tags}).decode()


def _summary(text: str) -> str:
    """As many whole sentences as fit, at least the beginning of the first."""
    summary = ""
    for sentence in _SENTENCE_END.split(" ".join(text[: 4 * _SUMMARY_CHARACTERS].split())):
        if summary and len(summary) + 1 + len(sentence) > _SUMMARY_CHARACTERS:
            break
        summary = f"{summary} {sentence}".strip()
    if len(summary) <= _SUMMARY_CHARACTERS:
        return summary
    return summary[: _SUMMARY_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def _chat_reply(question: Question) -> str:
    text = question.last_message[:_READ_CHARACTERS]
    subject = list(dict.fromkeys(_words(text)))[:_MOST_QUOTED]
    numbers = list(dict.fromkeys(found.rstrip(".:/-") for found in _NUMBER.findall(text)))[:_MOST_QUOTED]
    opening = f"Thank you for your message about {_listed(subject)}." if subject else "Thank you."
    noted = f" I have noted {_listed(numbers)}." if numbers else ""
    # The reference tells two prompts apart that end in the same message.
    reference = f"{crc32(question.prompt.encode(errors='replace')):08x}"
    return (
        f"{opening}{noted} A colleague has everything they need and I will stay with you until it is settled."
        f" (message {question.message_count}, reference {reference})"
    )


def _words(text: str) -> Iterator[str]:
    return (word for word in map(str.lower, _WORD.findall(text)) if word not in _COMMON)


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

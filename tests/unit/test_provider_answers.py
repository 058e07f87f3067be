"""Answers that depend on the question alone."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.local.provider.answers import Question, answer, tokens_of

_TEXT = (
    "Gates hold back water. A gate opens when the level falls! Engineers inspect gates in spring. "
    + "The remaining sentence is long and tells nothing. " * 20
)


def _question(text: str, *, wants_json: bool = False, max_tokens: int | None = 500) -> Question:
    return Question(
        model="small",
        prompt="system" + text,
        last_message=text,
        message_count=1,
        max_tokens=max_tokens,
        wants_json=wants_json,
    )


def test_the_same_question_gets_the_same_answer_and_another_one_another() -> None:
    """A repeated run gives the same results; a mixed-up one would show."""
    assert answer(_question("Where is it?")) == answer(_question("Where is it?"))
    assert answer(_question("Where is it?")) != answer(_question("Where was it?"))


def test_a_chat_reply_quotes_the_message() -> None:
    """A reader sees that it belongs to this customer."""
    text = answer(_question("My parcel A-177 has not arrived since 3 May.")).text
    assert "parcel" in text
    assert "A-177" in text


def test_an_index_entry_has_the_first_sentences_and_the_frequent_words() -> None:
    """Whole sentences, shortened, and tags without filler words."""
    entry = orjson.loads(answer(_question(_TEXT, wants_json=True)).text)
    assert entry["summary"].startswith("Gates hold back water. A gate opens")
    assert len(entry["summary"]) <= 240
    assert "sentence" in entry["tags"]
    assert len(entry["tags"]) == 5


def test_max_tokens_cuts_the_answer() -> None:
    """As a real model stops in the middle of a word."""
    whole, cut = answer(_question("Where is it?")), answer(_question("Where is it?", max_tokens=5))
    assert cut.is_cut
    assert cut.tokens == 5 == tokens_of(cut.text)
    assert whole.text.startswith(cut.text)


@given(text=st.text(), wants_json=st.booleans(), max_tokens=st.none() | st.integers(1, 50))
def test_any_text_gets_an_answer(text: str, wants_json: bool, max_tokens: int | None) -> None:
    """Empty, one endless word, every script: never an error, never above the bound."""
    given_answer = answer(_question(text, wants_json=wants_json, max_tokens=max_tokens))
    assert max_tokens is None or given_answer.tokens <= max_tokens
    if wants_json and not given_answer.is_cut:
        assert set(orjson.loads(given_answer.text)) == {"summary", "tags"}

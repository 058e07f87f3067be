"""The documents' handler and its splitter on their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.errors import CallRejectedError
from sluicegate.events.models import Document, DocumentIndex
from sluicegate.llm.outcomes import Usage
from sluicegate.processing.context import Completion, Context, EventInfo
from sluicegate.settings import load_settings
from streams.documents import index
from streams.prompts import prompt
from streams.splitting import split
from tests.unit.test_support_chat import FakeHistory

GOOD = orjson.dumps({"summary": "about things", "tags": ["a", "b"]}).decode()


@dataclass
class FakeLlm:
    """Answers each step as the script says; remembers what was asked and how many calls ran at once."""

    script: Callable[[str], str] = lambda step: GOOD
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: int = 0
    most_running: int = 0
    usage: Usage = field(default_factory=Usage)
    routes: tuple[str, ...] = ("main",)

    async def complete(self, *, step: str, **asked: Any) -> Completion:
        """Answer after letting others begin."""
        self.asked[step] = asked
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return Completion(text=self.script(step), model="model-1", usage=Usage())


async def index_of(llm: FakeLlm, text: str, media_type: str = "text/plain") -> DocumentIndex:
    """Index a text in pieces of at most 40 characters."""
    environ = {"SLUICEGATE_STREAMS__DOCUMENTS__CHUNK_TOKENS": "10"}
    ctx = Context(
        event=EventInfo(id="e", source=None, time=None, attempt=1, key="d", tenant=None),
        settings=load_settings(None, environ).stream("documents"),
        llm=llm,
        history=FakeHistory(),
    )
    document = Document(document_id="d", title="On things", media_type=media_type, text=text)
    return await index(document, ctx)


def paragraphs(count: int) -> str:
    """Return so many pieces' worth of text."""
    return "\n\n".join(f"paragraph number {number:03} of them all" for number in range(count))


async def test_every_piece_is_a_step_and_a_last_one_joins_them() -> None:
    """Steps are named by the pieces' numbers; offsets are those of the document's own text."""
    llm, text = FakeLlm(), paragraphs(3)

    indexed = await index_of(llm, text)

    assert list(llm.asked) == ["chunk-0", "chunk-1", "chunk-2", "join"]
    assert [text[c.start : c.end] for c in indexed.chunks] == text.split("\n\n")
    assert [(c.index, c.summary, c.tags) for c in indexed.chunks][1] == (1, "about things", ("a", "b"))
    assert (indexed.summary, indexed.tags, indexed.degraded) == ("about things", ("a", "b"), False)
    assert all(asked["json_object"] for asked in llm.asked.values())
    assert llm.asked["chunk-1"]["system"] == prompt("documents_chunk")
    assert text not in str([asked["system"] for asked in llm.asked.values()])


async def test_calls_of_one_document_run_side_by_side_but_not_all_of_them() -> None:
    """A long document does not take the whole quota's queue for itself."""
    llm = FakeLlm()

    await index_of(llm, paragraphs(30))

    assert llm.most_running == 8


async def test_an_answer_that_is_no_object_is_asked_for_once_more() -> None:
    """The repair is a step of its own that shows the model its answer; a good one counts as whole."""
    llm = FakeLlm(lambda step: "no JSON" if step == "chunk-0" else GOOD)

    indexed = await index_of(llm, "short")

    assert list(llm.asked) == ["chunk-0", "chunk-0.repair", "join"]
    texts = [message.text for message in llm.asked["chunk-0.repair"]["messages"]]
    assert texts[1:] == ["no JSON", prompt("documents_repair")]
    assert not indexed.degraded


@pytest.mark.parametrize(
    "wrong", ["just text", "[]", '{"summary": 3, "tags": []}', '{"summary": "", "tags": []}', '{"tags": []}']
)
async def test_a_second_wrong_answer_becomes_the_summary_and_is_marked(wrong: str) -> None:
    """Its text is kept with no tags; the entry and the whole are degraded."""
    llm = FakeLlm(lambda step: wrong if step.startswith("chunk") else GOOD)

    indexed = await index_of(llm, "short")

    assert (indexed.chunks[0].summary, indexed.chunks[0].tags) == (wrong, ())
    assert indexed.chunks[0].degraded
    assert indexed.degraded


async def test_a_rejected_repair_keeps_the_first_answer() -> None:
    """The paid answer is better than none."""

    def script(step: str) -> str:
        if step.endswith(".repair"):
            raise CallRejectedError("content-refused")
        return "first" if step == "chunk-0" else GOOD

    indexed = await index_of(FakeLlm(script), "short")

    assert indexed.chunks[0].summary == "first"


async def test_a_blank_document_needs_no_call() -> None:
    """There is nothing to ask about."""
    llm = FakeLlm()

    indexed = await index_of(llm, " \n ")

    assert llm.asked == {}
    assert (indexed.chunks, indexed.summary, indexed.model) == ((), "", "gpt-4o-mini")


def test_html_is_split_as_the_text_that_it_shows() -> None:
    """Headings survive, mark-up does not."""
    pieces = split("<html><body><h1>Head</h1><p>some <b>text</b></p></body></html>", "Text/HTML; a=b", 400)

    assert [piece.text for piece in pieces] == ["# Head\n\nsome **text**"]


def test_markdown_is_split_at_its_headings() -> None:
    """A heading stays with what it heads."""
    text = "# One\n\nfirst words here\n\n# Two\n\nsecond words here"

    pieces = split(text, "text/markdown", 30)

    assert [piece.text.split()[1] for piece in pieces] == ["One", "Two"]


def test_an_unbroken_word_takes_no_time() -> None:
    """Two million letters without a space are cut into pieces at once, not in seconds."""
    started = time.monotonic()

    pieces = split("x" * 2_000_000, "text/plain", 4000)

    assert len(pieces) == 500
    assert time.monotonic() - started < 2


@given(
    text=st.text(st.sampled_from("ab é\n\t#."), max_size=300),
    media_type=st.sampled_from(["text/plain", "text/markdown"]),
    most=st.integers(min_value=1, max_value=40),
)
def test_pieces_cover_the_text_in_order_within_their_bound(text: str, media_type: str, most: int) -> None:
    """Each piece is the text at its offsets; what lies between pieces is only white space."""
    pieces = split(text, media_type, most)

    end = 0
    for piece in pieces:
        assert text[piece.start : piece.end] == piece.text
        assert len(piece.text) <= most
        assert text[end : piece.start].strip() == ""
        end = piece.end
    assert text[end:].strip() == ""

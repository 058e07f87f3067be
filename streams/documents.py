"""Indexes documents: each piece is summarised and tagged in a step of its own, and a last one joins them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluicegate.errors import CallRejectedError
from sluicegate.events.models import Chunk, Document, DocumentIndex
from sluicegate.llm.api import Message
from sluicegate.processing.context import Completion, Context
from streams.prompts import prompt
from streams.splitting import Piece, split

_CHARACTERS_PER_TOKEN = 4
# Calls of one document side by side: one long document must not fill the worker's share of the quota.
_WIDTH = 8
_MOST_TAGS = 16
_SUMMARY_CHARACTERS_FOR_JOIN = 600


class _Answer(BaseModel):
    """The JSON object that every call asks for."""

    model_config = ConfigDict(strict=True, frozen=True)

    summary: str = Field(min_length=1)
    tags: tuple[str, ...] = Field(strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    summary: str
    tags: tuple[str, ...]
    degraded: bool
    model: str


async def index(document: Document, ctx: Context) -> DocumentIndex:
    """Return what the document is about, as a whole and piece by piece; blank text needs no call."""
    most_characters = ctx.settings.chunk_tokens * _CHARACTERS_PER_TOKEN
    pieces = await asyncio.to_thread(split, document.text, document.media_type, most_characters)
    entries = await _describe_all(document.title, pieces, ctx)
    whole = await _join(document.title, entries, ctx)
    return DocumentIndex(
        document_id=document.document_id,
        title=document.title,
        summary=whole.summary,
        tags=whole.tags,
        chunks=tuple(
            Chunk(
                index=number,
                start=piece.start,
                end=piece.end,
                summary=entry.summary,
                tags=entry.tags,
                degraded=entry.degraded,
            )
            for number, (piece, entry) in enumerate(zip(pieces, entries, strict=True))
        ),
        degraded=whole.degraded or any(entry.degraded for entry in entries),
        model=whole.model,
        usage=ctx.llm.usage,
        routes=ctx.llm.routes,
    )


async def _describe_all(title: str, pieces: tuple[Piece, ...], ctx: Context) -> tuple[_Entry, ...]:
    width = asyncio.Semaphore(_WIDTH)

    async def describe(number: int, piece: Piece) -> _Entry:
        async with width:
            user = f"Title: {title}\n\n{piece.text}"
            return await _ask(f"chunk-{number}", prompt("documents_chunk"), user, ctx)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(describe(number, piece)) for number, piece in enumerate(pieces)]
    return tuple(task.result() for task in tasks)


async def _join(title: str, entries: tuple[_Entry, ...], ctx: Context) -> _Entry:
    if not entries:
        return _Entry(summary="", tags=(), degraded=False, model=ctx.settings.model)
    parts = "\n".join(
        f"{number}. {entry.summary[:_SUMMARY_CHARACTERS_FOR_JOIN]}"
        for number, entry in enumerate(entries, start=1)
    )
    return await _ask("join", prompt("documents_join"), f"Title: {title}\n\n{parts}", ctx)


async def _ask(step: str, system: str, user: str, ctx: Context) -> _Entry:
    """Ask for the object, once more if need be; then the text itself stands in for the summary."""
    first = await ctx.llm.complete(step=step, system=system, user=user, json_object=True)
    if (entry := _entry(first)) is not None:
        return entry
    try:
        second = await ctx.llm.complete(
            step=f"{step}.repair",
            system=system,
            messages=(
                Message(role="user", text=user),
                # A blank one is left out: providers refuse messages without text.
                *((Message(role="assistant", text=first.text),) if first.text.strip() else ()),
                Message(role="user", text=prompt("documents_repair")),
            ),
            json_object=True,
        )
    except CallRejectedError:
        return _degraded(first)
    return _entry(second) or _degraded(second if second.text.strip() else first)


def _entry(answer: Completion) -> _Entry | None:
    try:
        parsed = _Answer.model_validate(orjson.loads(answer.text))
    except (orjson.JSONDecodeError, ValidationError):
        return None
    return _Entry(summary=parsed.summary, tags=parsed.tags[:_MOST_TAGS], degraded=False, model=answer.model)


def _degraded(answer: Completion) -> _Entry:
    return _Entry(summary=answer.text.strip(), tags=(), degraded=True, model=answer.model)

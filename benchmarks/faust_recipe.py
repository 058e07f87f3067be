"""The plain recipe on stock Faust: typed topics, one agent, `concurrency=N`, results sent as they come.

What Faust's own documentation leads to, with its default settings: no state, no limiter, no order per key
when `concurrency` is above 1, and offsets that are committed past work in flight. A process of its own,
started by the benchmarks of the worker.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import faust

from benchmarks.handlers import ANSWER, WORK_S
from benchmarks.plain_call import ask, open_client


class Chat(faust.Record, serializer="json"):
    """An event."""

    conversation_id: str
    turn: int
    speaker: str
    text: str


class Reply(faust.Record, serializer="json"):
    """A result."""

    conversation_id: str
    turn: int
    reply: str


def build(options: argparse.Namespace) -> faust.App:
    """Return the app."""
    app = faust.App(
        f"{options.output}.faust",
        broker=f"kafka://{options.kafka}",
        store="memory://",
        datadir=options.folder,
        # The topics are made by the benchmark: the embedded broker cannot be asked for any.
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    chats = app.topic(options.input, key_type=bytes, value_type=Chat)
    replies = app.topic(options.output, key_type=bytes, value_type=Reply)
    client = open_client()

    @app.agent(chats, concurrency=options.concurrency)
    async def answer(stream: Any) -> None:
        async for key, chat in stream.items():
            text = ANSWER
            if options.url is not None:
                text = await ask(client, options.url, chat.text, request_id=f"{chat.conversation_id}/reply/1")
            elif options.work_s:
                await asyncio.sleep(options.work_s)
            reply = Reply(conversation_id=chat.conversation_id, turn=chat.turn, reply=text)
            await replies.send(key=key, value=reply)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kafka")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--folder", required=True, help="where Faust keeps its own files")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--work-s", type=float, default=WORK_S, help="wait of an event without a call")
    parser.add_argument("--url", help="where an event's call goes")
    faust.Worker(build(parser.parse_args()), loglevel="info").execute_from_commandline()

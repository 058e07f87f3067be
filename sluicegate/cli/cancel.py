"""`sluicegate cancel STREAM`: ends parked events as dead letters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from consumers.inspection.cancelling import Target, Wish, followers_of, handed_on, targets_of
from consumers.inspection.copies import CopyReader
from sluicegate.cli.configuration import command_settings
from sluicegate.cli.operator import now_ms, write_down
from sluicegate.cli.pausing import pauses_of
from sluicegate.cli.stream_state import decoder_of, new_id, standings_of, with_state
from sluicegate.cli.wording import printable
from sluicegate.errors import PublishError
from sluicegate.events.audit import AuditKind
from sluicegate.kafka.publisher import ConfluentPublisher
from sluicegate.kafka.security import librdkafka_security
from sluicegate.settings import Settings
from sluicegate.state.api import Cancelling, CancelVerdict
from sluicegate.state.redis_state import RedisState
from sluicegate.topics import stream_topics

_AT_ONCE = 200
_PUBLISH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """One event that was meant, and what became of it. `error`: Kafka did not take the copy that ends it."""

    target: Target
    verdict: CancelVerdict
    error: PublishError | None = None

    @property
    def is_handed_on(self) -> bool:
        """Whether a worker finds a copy of it now: the one that was published, or the one that was due."""
        return self.verdict is CancelVerdict.FLAGGED and self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command did: to the events that were meant, and how many that stood behind them go on now."""

    cancelled: tuple[Cancelled, ...] = ()
    followers: int = 0

    def count(self, verdict: CancelVerdict) -> int:
        """Return how many events had the verdict."""
        return sum(each.verdict is verdict for each in self.cancelled)


def cancel(
    stream: str,
    *,
    key: str | None = None,
    id: str | None = None,
    json: bool = False,
    config: Path | None = None,
) -> int:
    """End parked events as dead letters with the reason `cancelled`, without another call.

    A worker ends them at once, however long they would have waited; while the stream is paused, when it is
    resumed. Events that are not parked are left alone: one at work finishes, one in the input has its turn.
    Exits 1 when nothing that is parked is meant, or when one of them gets another end.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    key
        Every parked event of this key.
    id
        One event: its own id, its identity (as in logs and calls), or its origin TOPIC/PARTITION/OFFSET.
    json
        Print one JSON object.
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.

    """
    settings = command_settings(config)
    settings.stream(stream)
    if key is None and id is None:
        sys.stderr.write("sluicegate: say which events: --key KEY or --id ID\n")
        return 2
    wish = Wish(key=key, id=id)
    is_paused = stream in pauses_of(settings)
    done = cancel_parked(settings, stream, wish)
    if json:
        sys.stdout.write(orjson.dumps(as_json(stream, done)).decode() + "\n")
    else:
        _tell(stream, wish, done, is_paused=is_paused)
    is_written = True
    if flagged := done.count(CancelVerdict.FLAGGED):
        target, counts = {"key": key, "id": id}, {"cancelled": flagged, "followers": done.followers}
        is_written = write_down(settings, AuditKind.CANCELLED, stream, target=target, counts=counts)
    is_all = all(each.verdict is not CancelVerdict.TOO_LATE and each.error is None for each in done.cancelled)
    return 0 if done.cancelled and is_all and is_written else 1


def cancel_parked(settings: Settings, stream: str, wish: Wish) -> Done:
    """Flag what is parked and meant, hand each a copy that ends it now, and let go what stood behind it.

    The flag comes first: whichever copy is taken then finds it. Each step may be repeated, so a command that
    was killed in between is given again. Raises BrokerError and StateUnavailableError.
    """
    topics, decoder = stream_topics(settings, stream), decoder_of(settings, stream)
    with CopyReader(settings, stream) as reader:
        # `due` comes last: what the relay releases meanwhile is found in one of the two, or in both.
        copies = chain(reader.parked(now_ms=now_ms()), reader.due(now_ms=now_ms()))
        targets = targets_of(copies, wish, decoder, topics)
        answers = with_state(settings, stream, lambda state: _flag_all(state, targets))
        asked = list(zip(targets, answers, strict=True))
        flagged = [target for target, answer in asked if answer.verdict is CancelVerdict.FLAGGED]
        is_ordered = settings.streams[stream].ordered and flagged
        parked = reader.parked(now_ms=now_ms()) if is_ordered else ()
        followers = followers_of(parked, flagged, decoder, topics)
    standings = standings_of(settings, stream, [each.ref for each in followers]) if followers else []
    heads = [
        handed_on(target, answer.live, topics, token=new_id(), now_ms=now_ms())
        for target, answer in asked
        if answer.verdict is CancelVerdict.FLAGGED and not target.is_released
    ]
    behind = [
        handed_on(each, standing.live if standing else None, topics, token=new_id(), now_ms=now_ms())
        for each, standing in zip(followers, standings, strict=True)
    ]
    # Heads first: a follower that a worker took before its head would stand behind it again.
    with ConfluentPublisher(
        settings.kafka.bootstrap_servers,
        client_id="sluicegate-cancel",
        timeout_s=_PUBLISH_TIMEOUT_S,
        security=librdkafka_security(settings.kafka),
    ) as publisher:
        errors = publisher.publish_all([*heads, *behind])
    of_heads = iter(errors[: len(heads)])
    return Done(
        cancelled=tuple(
            Cancelled(
                target=target,
                verdict=answer.verdict,
                error=next(of_heads)
                if answer.verdict is CancelVerdict.FLAGGED and not target.is_released
                else None,
            )
            for target, answer in asked
        ),
        followers=sum(error is None for error in errors[len(heads) :]),
    )


async def _flag_all(state: RedisState, targets: Sequence[Target]) -> list[Cancelling]:
    answers: list[Cancelling] = []
    for first in range(0, len(targets), _AT_ONCE):
        batch = targets[first : first + _AT_ONCE]
        answers += await state.cancel([(each.ref, each.copy.due_at_ms) for each in batch])
    return answers


def as_json(stream: str, done: Done) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "stream": stream,
        "found": len(done.cancelled),
        "cancelled": done.count(CancelVerdict.FLAGGED),
        "too_late": done.count(CancelVerdict.TOO_LATE),
        "ended": done.count(CancelVerdict.ENDED),
        "followers": done.followers,
        "events": [
            {
                "event_id": each.target.event_id,
                "identity": each.target.ref.identity,
                "origin": str(each.target.ref.origin),
                "key": each.target.ref.key,
                "was_due_at_ms": each.target.copy.due_at_ms,
                "verdict": each.verdict.value,
                "was_due": each.target.is_released,
                "handed_on": each.is_handed_on,
            }
            for each in done.cancelled
        ],
    }


def _tell(stream: str, wish: Wish, done: Done, *, is_paused: bool) -> None:
    if not done.cancelled:
        given = (("key", wish.key), ("id", wish.id))
        meant = " and ".join(f"{name} {printable(value)}" for name, value in given if value is not None)
        sys.stderr.write(
            f"sluicegate: nothing of {meant} is parked in {stream}; what is at work or still in the input"
            " cannot be cancelled\n"
        )
        return
    flagged = [each for each in done.cancelled if each.verdict is CancelVerdict.FLAGGED]
    released = sum(each.target.is_released for each in flagged)
    when = "when the stream is resumed" if is_paused else "as soon as a worker takes them"
    lines = (
        (len(flagged) - released, f"cancelled: dead letters {when}"),
        (released, "were due already: cancelled unless a worker is at work on them"),
        (done.followers, "stood behind them and go on now"),
        (done.count(CancelVerdict.TOO_LATE), "too late: another end is being published"),
        (done.count(CancelVerdict.ENDED), "had ended before"),
    )
    for count, said in lines:
        if count:
            sys.stdout.write(f"{count} {said}\n")
    for each in done.cancelled:
        if each.error is not None:
            sys.stderr.write(
                f"sluicegate: {each.target.ref.origin} ends only when it is due, or give the command again:"
                f" {each.error}\n"
            )

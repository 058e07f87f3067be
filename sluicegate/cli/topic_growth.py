"""Widening a stream: its `due`, tiers and input together, in an order that loses nothing at any point."""

from __future__ import annotations

from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.topic_check import grown_in_order
from sluicegate.settings import Settings
from sluicegate.topics import StreamTopics, stream_topics


def grow_stream(settings: Settings, stream: str, partitions: int | None) -> tuple[str, ...]:
    """Give the stream's topics as many partitions, by default as the widest has; say what was done.

    May be repeated after a failure. Raises BrokerError, which says what to do first, when a worker is in
    the stream's group, or when the input would grow while events of it wait: their keys would go on in
    other partitions than they began in, and lose their order.
    """
    topics, admin = stream_topics(settings, stream), KafkaAdmin.of(settings.kafka)
    names = grown_in_order(topics)
    counts = admin.partition_counts()
    if missing := [name for name in names if name not in counts]:
        raise BrokerError(f"{missing[0]} is missing: run `sluicegate topics --create` first")
    widest = max(counts[name] for name in names)
    wanted = widest if partitions is None else partitions
    if wanted < widest:
        raise BrokerError(f"a topic of {stream} has {widest} partitions: Kafka takes none away")
    if members := admin.members(topics.group):
        raise BrokerError(f"workers of {stream} are running ({members} in its group): stop them first")
    if counts[topics.input] < wanted:
        _require_drained(settings, stream, topics)
    grown = [name for name in names if counts[name] < wanted]
    for name in grown:
        admin.grow(name, wanted)
    return tuple(f"{name} has {wanted} partitions now" for name in grown) or (
        f"every topic of {stream} had {wanted} partitions already",
    )


def _require_drained(settings: Settings, stream: str, topics: StreamTopics) -> None:
    # Here and not above: only this needs a reader, and most calls of `topics` never come so far.
    from consumers.inspection.inspector import Inspector

    with Inspector(settings) as inspector:
        (backlog,) = (each for each in inspector.look() if each.stream == stream)
    if backlog.remaining:
        raise BrokerError(
            f"{stream} is not drained ({backlog.lag} in {topics.input}, {backlog.parked} parked,"
            f" {backlog.due} due): stop its publishers and let its workers finish"
        )

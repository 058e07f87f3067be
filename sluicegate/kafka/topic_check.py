"""Comparing the topic table with a cluster: what has to be made, and what is wrong with what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.settings import Settings
from sluicegate.topics import StreamTopics, TopicSpec, stream_topics, topic_table

# What delivery rests on. The rest of a topic's settings is its operators' own business.
_CHECKED_SETTINGS = ("message.timestamp.type",)


def fitted_table(settings: Settings, counts: Mapping[str, int]) -> tuple[TopicSpec, ...]:
    """Return the topic table, with the internal topics as wide as an input that is there already."""
    width = {
        name: counts[topics.input]
        for topics in _all(settings)
        if topics.input in counts
        for name in (topics.due, *topics.tiers, topics.dlq)
    }
    return tuple(
        replace(spec, partitions=width.get(spec.name, spec.partitions)) for spec in topic_table(settings)
    )


def create_missing(settings: Settings, admin: KafkaAdmin) -> tuple[str, ...]:
    """Make the topics that are missing, leave the others as they are, and return the new names."""
    return admin.create(fitted_table(settings, admin.partition_counts()))


def missing_topics(settings: Settings, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the table that the cluster does not have."""
    return tuple(spec.name for spec in topic_table(settings) if spec.name not in counts)


def uneven_topics(settings: Settings, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Say which internal topics are not as wide as their stream's input, one sentence each.

    A copy goes to its origin's partition number, and one worker must own both: a difference loses order.
    """
    return tuple(
        f"{name} has {counts[name]} partitions and {topics.input} has {counts[topics.input]}: "
        f"stop the stream's workers and run `sluicegate topics --grow {stream}`"
        for stream, topics in zip(settings.streams, _all(settings), strict=True)
        if topics.input in counts
        for name in (*topics.tiers, topics.due)
        if name in counts and counts[name] != counts[topics.input]
    )


def grown_in_order(topics: StreamTopics) -> tuple[str, ...]:
    """Name the topics that must be equally wide, in the order in which they may grow.

    A record of a new partition must find it wherever it goes next: so the tiers grow before the input, and
    `due` before the tiers, for a relay that runs meanwhile looks at `due` when a tier has grown.
    """
    return (topics.due, *topics.tiers, topics.input)


def differences(settings: Settings, admin: KafkaAdmin) -> tuple[str, ...]:
    """Say what of the cluster differs from the table, one sentence each; nothing when all is well."""
    counts = admin.partition_counts()
    missing = missing_topics(settings, counts)
    wanted = {spec.name: spec.config for spec in topic_table(settings) if spec.name in counts}
    found = admin.topic_configs(wanted)
    return (
        *(f"{name} is missing: run `sluicegate topics --create`" for name in missing),
        *uneven_topics(settings, counts),
        *(
            f"{name} has {key}={found[name].get(key)} and must have {config[key]}: alter it"
            for name, config in wanted.items()
            for key in _CHECKED_SETTINGS
            if key in config and found[name].get(key) != config[key]
        ),
    )


def _all(settings: Settings) -> tuple[StreamTopics, ...]:
    return tuple(stream_topics(settings, stream) for stream in settings.streams)

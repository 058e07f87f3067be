"""Takes away what a run left on somebody else's Kafka and Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future

import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from sluicegate.cli.demo.plan import DemoNames
from sluicegate.errors import BrokerError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.config import asking_config
from sluicegate.settings import Settings
from sluicegate.topics import relay_group, stream_topics, topic_table

_TIMEOUT_S = 20.0
_SCAN_COUNT = 500


def delete_from_kafka(settings: Settings, say: Callable[[str], None]) -> None:
    """Delete the run's topics and groups; what cannot be deleted is said."""
    servers = settings.kafka.bootstrap_servers
    try:
        admin = KafkaAdmin(servers)
        there = admin.partition_counts()
        admin.delete([topic.name for topic in topic_table(settings) if topic.name in there])
    except BrokerError as exc:
        say(f"topics that begin with {settings.kafka.group} are still there: {exc}")
    groups = [relay_group(settings), *(stream_topics(settings, stream).group for stream in settings.streams)]
    client = AdminClient(asking_config(servers, client_id="sluicegate-demo"))
    futures = client.delete_consumer_groups(groups, request_timeout=_TIMEOUT_S)
    for group in _not_done(futures.items()):
        say(f"the consumer group {group} could not be deleted")


def delete_from_redis(url: str, names: DemoNames) -> None:
    """Delete every key of the run."""
    with redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S) as client:
        for pattern in (f"{names.group}:*", f"lim:{{{names.provider}}}*", f"lim:{{{names.provider}/*"):
            for key in client.scan_iter(match=pattern, count=_SCAN_COUNT):
                client.unlink(key)


def _not_done(futures: Iterable[tuple[str, Future[None]]]) -> Iterable[str]:
    for group, future in futures:
        try:
            future.result(_TIMEOUT_S)
        except (KafkaException, TimeoutError) as exc:
            # A group that never formed is not there to be deleted.
            if "NOT_FOUND" not in str(exc):
                yield group

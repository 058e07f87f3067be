"""The Faust app of one stream: its configuration, its transport, its two agents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types.transports import ConsumerT, ProducerT

from streams.runtime.consumer import Fetched, Gate, Handover, TrackingConsumer
from streams.runtime.liveness import Vitals
from streams.runtime.producer import IdempotentProducer

_DAY_S = 86400.0
_PRODUCER_BATCH_BYTES = 262144
# One request to a broker is under way at a time: under load batches fill while it is, and a lone result waits
# for no company.
_PRODUCER_LINGER_MS = 0
_MAX_FETCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AppPlan:
    """What an app needs to know of the configuration. `max_request_bytes` bounds one produced record.

    `instance_id` makes the worker a static member of its group; None is an ordinary one. `security` holds
    aiokafka's own arguments; they pass Faust by, whose credentials know no TLS without a context of theirs.
    """

    bootstrap_servers: str
    group: str
    input_topic: str
    due_topic: str
    session_timeout_s: float
    rebalance_timeout_s: float
    publish_timeout_s: float
    max_request_bytes: int
    instance_id: str | None = None
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)


class TrackingTransport(driver.Transport):
    """Faust's transport with our consumer and producer."""

    Consumer: ClassVar[type[ConsumerT]] = TrackingConsumer
    Producer: ClassVar[type[ProducerT]] = IdempotentProducer


class StreamApp(faust.App):
    """A Faust app whose consumer asks a gate before it takes anything."""

    gate: Gate
    publish_timeout_s: float
    instance_id: str | None
    vitals: Vitals
    security: Mapping[str, Any]

    @property
    def made_consumer(self) -> TrackingConsumer | None:
        """The consumer that the app runs, None before it made one.

        Faust's `consumer` makes one for whoever asks first. Asked from the health port's thread while the app
        starts there were two: one ran, and the other was told to subscribe.
        """
        made = self._consumer
        return made if isinstance(made, TrackingConsumer) else None

    def _new_transport(self) -> Any:
        return TrackingTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return TrackingTransport(self.conf.broker_producer, self)

    def _crash(self, reason: BaseException) -> None:
        # The consumer's thread crashes the app from its own event loop.
        self.loop.call_soon_threadsafe(self.gate.on_fatal, reason)
        super()._crash(reason)

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: the stock way closes the client here, without a commit or a LeaveGroup."""

    def _create_directories(self) -> None:
        """Do nothing: no table is kept, so that the worker runs on a read-only disk."""

    async def _producer_flush(self, logger: Any) -> None:
        try:
            async with asyncio.timeout(self.publish_timeout_s):
                await super()._producer_flush(logger)
        except TimeoutError:
            self.log.warning("the producer did not flush in time; unconfirmed records are not acknowledged")


def build_app(plan: AppPlan, gate: Gate, vitals: Vitals) -> StreamApp:
    """Return the app of one stream, not started; while it runs it shows in `vitals` that it moves."""
    servers = [server.strip() for server in plan.bootstrap_servers.split(",")]
    app = StreamApp(
        plan.group,
        broker=[f"kafka://{server}" for server in servers],
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_buffer_maxsize=256,
        stream_wait_empty=True,
        stream_processing_timeout=_DAY_S,
        broker_max_poll_interval=30 * _DAY_S,  # a pause must never make a zombie that does not rejoin
        broker_commit_livelock_soft_timeout=_DAY_S,
        broker_commit_interval=0.5,
        broker_session_timeout=plan.session_timeout_s,
        broker_heartbeat_interval=min(3.0, plan.session_timeout_s / 4),
        broker_rebalance_timeout=plan.rebalance_timeout_s,
        broker_request_timeout=max(30.0, plan.session_timeout_s),
        consumer_max_fetch_size=_MAX_FETCH_BYTES,
        producer_max_request_size=plan.max_request_bytes,
        producer_max_batch_size=_PRODUCER_BATCH_BYTES,
        producer_linger=_PRODUCER_LINGER_MS / 1000,
        producer_request_timeout=plan.publish_timeout_s,
    )
    app.gate = gate
    app.publish_timeout_s = plan.publish_timeout_s
    app.instance_id = plan.instance_id
    app.vitals = vitals
    app.security = plan.security
    return app


def register_agents(app: StreamApp, plan: AppPlan, take: Callable[[Fetched], None]) -> None:
    """Give the app its two agents: one takes fresh events, one takes those that are due again."""
    for name, topic in (("input", plan.input_topic), ("due", plan.due_topic)):
        # Bytes only: a typed topic stalls for seconds on every record that does not parse, and acks it.
        channel = app.topic(
            topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        app.agent(channel, name=f"{plan.group}.{name}")(_agent(take, app.gate.on_fatal))


def _agent(
    take: Callable[[Fetched], None], on_fatal: Callable[[BaseException], None]
) -> Callable[[Any], Any]:
    async def agent(events: Any) -> None:  # a faust.Stream; its interface type lacks noack()
        # noack: only the dispatcher knows when an event is done.
        async for event in events.noack().events():
            message = event.message
            if not isinstance(message, Handover):
                continue
            for fetched in message.fetched:
                try:
                    take(fetched)
                except Exception as error:  # noqa: BLE001 - Faust would start the agent again behind these
                    on_fatal(error)
                fetched.assignment.took(fetched.tp)

    return agent

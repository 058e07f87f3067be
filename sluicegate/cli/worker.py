"""`sluicegate worker STREAM`: builds a worker from the settings and runs it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import threading
from collections.abc import Hashable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from sluicegate.cli.configuration import command_settings
from sluicegate.cli.stream_state import STATE_TIMEOUT_S, new_id, state_of
from sluicegate.delivery.dispatcher import Item, KeyedDispatcher, Slot, Verdict
from sluicegate.errors import BrokerError, ConfigurationError, StateUnavailableError
from sluicegate.kafka.admin import KafkaAdmin
from sluicegate.kafka.security import aiokafka_security
from sluicegate.kafka.topic_check import missing_topics, uneven_topics
from sluicegate.processing.calling import Wire
from sluicegate.processing.handlers import load_handler
from sluicegate.processing.leases import LeaseKeeper
from sluicegate.processing.pauses import DrainablePauses
from sluicegate.processing.process import EventProcessor, ProcessorPorts, StreamRules
from sluicegate.processing.reading import Delivered, DeliveryReader
from sluicegate.processing.routes import Routes
from sluicegate.processing.sending import Sender
from sluicegate.processing.steps import StepPorts
from sluicegate.processing.wire import WireCalls
from sluicegate.providers import Providers
from sluicegate.retry.policy import RetryPolicy
from sluicegate.settings import Settings
from sluicegate.state.connecting import connect
from sluicegate.state.pause import Pause, PauseFlags, PauseWatch
from sluicegate.state.redis_clock import RedisClock
from sluicegate.telemetry.health import HealthServer, HealthThread
from sluicegate.telemetry.logs import configure_logs
from sluicegate.telemetry.metrics import Metrics
from sluicegate.telemetry.otel import process_traces
from sluicegate.telemetry.traces import Traces
from sluicegate.topics import audit_topic, input_message_bytes, stream_topics
from streams.runtime.app import AppPlan, StreamApp, build_app, register_agents
from streams.runtime.consumer import TrackingConsumer
from streams.runtime.embedded import hold_back_leaders_sync
from streams.runtime.intake import Intake, IntakeRules
from streams.runtime.liveness import Liveness, Vitals
from streams.runtime.observing import WorkerObserver
from streams.runtime.producer import FaustPublisher
from streams.runtime.runner import Fatal, WorkerParts, run_worker

_PUBLISH_TIMEOUT_S = 60.0
_REVOKE_TIMEOUT_S = 10.0
_REDIS_CONNECTIONS = 64
_MAX_ADMITTED_BYTES = 64 * 1024 * 1024
_ADMITTED_PER_RUNNING = 10
_RETRY_S = 1.0
_COLLECT_AFTER_OBJECTS = 50_000
_CLOSE_TIMEOUT_S = 5.0
# What headers and a retry's own may add to a record (see sluicegate.topics).
_HEADROOM_BYTES = 128 * 1024


def worker(stream: str, *, config: Path | None = None, embedded_broker: bool = False) -> None:
    """Run the worker of one stream until SIGTERM.

    Parameters
    ----------
    stream
        The stream's name, as in [streams.NAME].
    config
        Configuration file; else $SLUICEGATE_CONFIG, else sluicegate.toml here, else the defaults.
    embedded_broker
        Work around what the embedded broker does differently when several workers share a stream.
    """
    settings = command_settings(config)
    settings.stream(stream)
    configure_logs("INFO", terminal=sys.stderr.isatty(), stream=sys.stderr)
    if embedded_broker:
        hold_back_leaders_sync()
    code = asyncio.run(_run(settings, stream))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the Kafka client may outlive a stop that timed out: nothing may keep the process.
    os._exit(code)


async def _run(settings: Settings, stream: str) -> int:
    async with AsyncExitStack() as stack:
        traces = stack.enter_context(process_traces("sluicegate-worker", os.environ))
        build = _Composition(settings, stream, traces)
        _collect_seldom()
        stack.push_async_callback(build.redis.aclose)
        for caller in build.providers.callers.values():
            await stack.enter_async_context(caller)
        stack.enter_context(HealthThread(build.health))
        code = await run_worker(build.parts, build.fatal)
        _exit_soon(code)
        return code


def _collect_seldom() -> None:
    """Look for cycles after 50,000 new objects, not 700, and never again among what the start made.

    Events in hand are thousands of objects that live for seconds: by default a fifth of a busy worker's
    time went into walking over them. A walk stays at some milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 20, 20)


def _exit_soon(code: int) -> None:
    """End the process even if a task that swallows its cancellation keeps the event loop from closing."""
    deadline = threading.Timer(_CLOSE_TIMEOUT_S, os._exit, [code])
    deadline.daemon = True
    deadline.start()


class _Composition:
    """Every object of a worker process, built once, in the order in which they need each other."""

    def __init__(self, settings: Settings, stream: str, traces: Traces) -> None:
        own = settings.stream(stream)
        self.settings, self.stream, self.own = settings, stream, own
        self.topics = stream_topics(settings, stream)
        self.policy = RetryPolicy.from_settings(settings.retry, own)
        self.handler = load_handler(own.agent)
        self.log = structlog.get_logger().bind(stream=stream)
        self.metrics = Metrics()
        self.traces = traces
        self.fatal = Fatal()
        self.redis = connect(settings.redis, max_connections=_REDIS_CONNECTIONS, timeout_s=STATE_TIMEOUT_S)
        self.clock = RedisClock(self.redis)
        self.state = state_of(settings, stream, self.redis)
        self.vitals = Vitals()
        self.providers = Providers(
            settings,
            self.redis,
            self.metrics,
            new_id=new_id,
            traces=traces,
            watched=self.vitals.calls,
        )
        self.routes = self.providers.routes(settings.routes(stream), own.model)
        self.leases = LeaseKeeper(self.state, self.metrics, stream)
        self.wire_calls = WireCalls(self.fatal.report)
        self.pauses = DrainablePauses()
        self.app: StreamApp | None = None
        self.dispatcher: KeyedDispatcher[Delivered] = KeyedDispatcher(
            self._work,
            max_running=own.max_running,
            max_admitted=own.max_running * _ADMITTED_PER_RUNNING,
            max_admitted_bytes=_MAX_ADMITTED_BYTES,
            serial=own.ordered,
            on_crash=self.fatal.report,
        )
        self.metrics.running.labels(stream).set_function(lambda: self.dispatcher.running)
        self.metrics.expect_stream(stream)
        self.metrics.slots.labels(stream).set(own.max_running)
        self.metrics.admitted.labels(stream).set_function(lambda: self.dispatcher.admitted)
        flags = PauseFlags(self.redis, group=settings.kafka.group, timeout_s=STATE_TIMEOUT_S)
        self.metrics.stream_paused.labels(stream).set(0)
        self.pause = PauseWatch(flags, stream, on_change=self._on_pause)
        self.processor = self._processor()
        self.intake = self._intake()
        self.liveness = Liveness(
            self.vitals,
            consumer=self._consumer,
            redis_is_up=lambda: self.metrics.redis.is_up,
            is_draining=lambda: self.intake.is_stopped,
        )
        self.observer = WorkerObserver(
            stream=stream,
            due_topic=self.topics.due,
            metrics=self.metrics,
            dispatcher=self.dispatcher,
            consumer=self._consumer,
            vitals=self.vitals,
        )
        self.health = HealthServer(
            host=settings.http.host,
            port=settings.http.port,
            port_is_fixed=settings.http_port_from_environment,
            registry=self.metrics.registry,
            live=self.liveness.dead,
            ready=self.liveness.not_ready,
        )
        self.parts = self._parts()

    def _processor(self) -> EventProcessor:
        steps = StepPorts(
            steps=self.state,
            routes=Routes(self.routes, fallback_after_s=self.own.fallback_after_s),
            wire=Wire(steps=self.state, sender=Sender(clock=self.clock, metrics=self.metrics)),
            wire_calls=self.wire_calls,
            leases=self.leases,
            pauses=self.pauses,
            clock=self.clock,
            random=random.random,
            new_id=new_id,
            metrics=self.metrics,
            traces=self.traces,
        )
        return EventProcessor(
            StreamRules(
                stream=self.stream,
                topics=self.topics,
                settings=self.own,
                policy=self.policy,
                handler=self.handler,
            ),
            ProcessorPorts(
                copies=self.state,
                ends=self.state,
                histories=self.state,
                steps=steps,
                publisher=FaustPublisher(
                    self._running_app, timeout_s=_PUBLISH_TIMEOUT_S, watched=self.vitals.publishes
                ),
                waits_here=self._waits_here,
                log=self._log_line,
                traces=self.traces,
            ),
        )

    def _intake(self) -> Intake:
        return Intake(
            rules=IntakeRules(
                stream=self.stream,
                due_topic=self.topics.due,
                in_place_max_s=self.policy.in_place_max_s,
                publish_timeout_s=_REVOKE_TIMEOUT_S,
                views=tuple(self.providers.limiters.values()),
            ),
            reader=DeliveryReader(
                stream=self.stream,
                input_topic=self.topics.input,
                due_topic=self.topics.due,
                model=self.handler.argument,
                ordered=self.own.ordered,
                max_event_bytes=self.own.max_event_bytes,
                horizon_s=self.policy.horizon_s,
                clock=self.clock,
                metrics=self.metrics,
            ),
            dispatcher=self.dispatcher,
            metrics=self.metrics,
            on_fatal=self.fatal.report,
            is_paused=lambda: self.pause.is_paused,
        )

    def _parts(self) -> WorkerParts:
        return WorkerParts(
            build_app=self._build_app,
            services=(
                *(limiter.run for limiter in self.providers.limiters.values()),
                self.leases.run,
                self.clock.run,
                self.pause.run,
                self.vitals.tick,
                self.observer.run,
            ),
            ready_to_start=self._ready_to_start,
            stop_intake=self.intake.stop,
            release_waiters=self._release_waiters,
            dispatcher=self.dispatcher,
            wire_calls=self.wire_calls,
            drain_s=self.settings.worker.drain_s,
            call_timeout_s=max(self.settings.providers[name].timeout_s for name in self.providers.callers),
            log=self.log,
        )

    # --- what the parts ask for while they run ----------------------------------------------------

    async def _work(self, item: Item[Delivered], slot: Slot[Delivered]) -> Verdict:
        return await self.processor.work(item, slot)

    def _waits_here(self, lane: Hashable, order: int) -> bool:
        return self.dispatcher.waits_here(lane, order)

    def _log_line(self, event: str, fields: dict[str, object]) -> None:
        self.log.info(event, **fields)

    def _on_pause(self, pause: Pause | None) -> None:
        """Hold back what was taken and not begun, too; what runs finishes."""
        self.dispatcher.hold(pause is not None)
        self.metrics.stream_paused.labels(self.stream).set(pause is not None)
        if pause is not None:
            self.log.warning("worker.paused", by=pause.by, since_ms=pause.at_ms, reason=pause.reason)
        else:
            self.log.info("worker.resumed")

    def _release_waiters(self) -> None:
        for limiter in self.providers.limiters.values():
            limiter.release_waiters()
        self.pauses.release()

    def _running_app(self) -> StreamApp:
        if self.app is None:
            raise RuntimeError("nothing is published before the app was built")
        return self.app

    def _consumer(self) -> TrackingConsumer | None:
        return self.app.made_consumer if self.app is not None and self.app.started else None

    def _build_app(self) -> StreamApp:
        plan = AppPlan(
            bootstrap_servers=self.settings.kafka.bootstrap_servers,
            group=self.topics.group,
            input_topic=self.topics.input,
            due_topic=self.topics.due,
            session_timeout_s=self.settings.kafka.session_timeout_s,
            rebalance_timeout_s=max(2 * _REVOKE_TIMEOUT_S + 10, self.settings.worker.drain_s),
            publish_timeout_s=_REVOKE_TIMEOUT_S,
            max_request_bytes=input_message_bytes(self.own) + _HEADROOM_BYTES,
            instance_id=self.settings.kafka.instance_id,
            security=aiokafka_security(self.settings.kafka),
        )
        self.app = build_app(plan, self.intake, self.vitals)
        register_agents(self.app, plan, self.intake.take)
        return self.app

    async def _ready_to_start(self) -> None:
        """Wait for Redis's time, for Kafka and for the stream's topics."""
        while True:
            try:
                await self.clock.refresh()
                break
            except StateUnavailableError as error:
                self.log.warning("worker.redis_unreachable", error=str(error))
            await asyncio.sleep(_RETRY_S)
        admin = KafkaAdmin.of(self.settings.kafka, timeout_s=5.0)
        while True:
            try:
                missing = _missing(
                    self.settings, self.stream, await asyncio.to_thread(admin.partition_counts)
                )
                if not missing:
                    break
                self.log.warning("worker.topics_missing", first=missing[0], count=len(missing))
            except BrokerError as error:
                servers = self.settings.kafka.bootstrap_servers
                self.log.warning("worker.kafka_unreachable", servers=servers, error=str(error))
            await asyncio.sleep(_RETRY_S)


def _missing(settings: Settings, stream: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the stream's topics that are not there; ConfigurationError when their widths differ."""
    alone = settings.model_copy(update={"streams": {stream: settings.stream(stream)}})
    if uneven := uneven_topics(alone, counts):
        raise ConfigurationError(uneven[0])
    return tuple(name for name in missing_topics(alone, counts) if name != audit_topic(settings))

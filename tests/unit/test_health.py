"""The health port: what it answers, which port it takes, and from where it can be run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from sluicegate.errors import ConfigurationError
from sluicegate.telemetry.health import LISTENING, PORT_TAKEN, HealthServer, HealthThread
from sluicegate.telemetry.metrics import Metrics


@dataclass
class _Process:
    """A process with things that can be wrong."""

    dead: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def server(self, *, host: str = "127.0.0.1", port: int = 0, port_is_fixed: bool = False) -> HealthServer:
        return HealthServer(
            host=host,
            port=port,
            port_is_fixed=port_is_fixed,
            registry=self.registry,
            live=lambda: self.dead,
            ready=lambda: self.not_ready,
        )


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        yield somebody.getsockname()[1]


async def _get(port: int | None, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}{path}", timeout=5)


async def test_a_process_without_complaints_is_live_and_ready() -> None:
    """Both probes answer 200 and say that nothing is wrong."""
    async with _Process().server() as server:
        for path in ("/livez", "/readyz"):
            answer = await _get(server.port, path)
            assert answer.status_code == 200
            assert answer.json() == {"status": "ok", "reasons": []}


async def test_each_probe_names_its_own_reasons() -> None:
    """A process that is not ready is not restarted for it, and the reason is there to read."""
    process = _Process()
    async with process.server() as server:
        process.not_ready.append("redis away")
        ready, live = await _get(server.port, "/readyz"), await _get(server.port, "/livez")
        assert (ready.status_code, live.status_code) == (503, 200)
        assert ready.json()["reasons"] == ["redis away"]

        process.dead.append("event loop stuck")
        live = await _get(server.port, "/livez")
        assert live.status_code == 503
        assert live.json()["reasons"] == ["event loop stuck"]


async def test_metrics_are_those_of_the_given_registry() -> None:
    """Prometheus reads our metrics and nothing of a global registry."""
    metrics = Metrics()
    metrics.taken.labels(stream="support-chat", source="input").inc(3)
    Counter("stranger", "Somebody else's")
    process = _Process(registry=metrics.registry)

    async with process.server() as server:
        answer = await _get(server.port, "/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'sluicegate_events_taken_total{source="input",stream="support-chat"} 3.0' in answer.text
    assert "stranger" not in answer.text


async def test_a_wanted_port_that_is_free_is_taken() -> None:
    """The configured port is used when it can be."""
    async with _Process().server() as first:
        port = first.port
    assert port is not None

    async with _Process().server(port=port, port_is_fixed=True) as second:
        assert second.port == port


async def test_a_taken_port_is_one_warning_and_a_free_port(taken_port: int) -> None:
    """A second worker on one machine starts anyway and says where it listens."""
    with capture_logs() as lines:
        async with _Process().server(port=taken_port) as server:
            assert server.port not in (taken_port, 0)
            assert (await _get(server.port, "/livez")).status_code == 200

    assert [line["event"] for line in lines] == [PORT_TAKEN, LISTENING]
    assert lines[0]["log_level"] == "warning"
    assert lines[1]["port"] == server.port


async def test_a_taken_port_that_is_fixed_is_an_error(taken_port: int) -> None:
    """Where a probe or a Service relies on the port, another one would be a silent outage."""
    with pytest.raises(ConfigurationError, match=str(taken_port)):
        async with _Process().server(port=taken_port, port_is_fixed=True):
            pass


async def test_an_address_that_is_not_ours_is_an_error() -> None:
    """A wrong host is a setting to correct, not a reason for another port."""
    with pytest.raises(ConfigurationError, match="host"):
        async with _Process().server(host="192.0.2.1"):
            pass


async def test_a_name_with_several_addresses_gets_one_port() -> None:
    """`localhost` is IPv4 and IPv6: there is one listener and the logged port is its own."""
    async with _Process().server(host="localhost") as server:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://localhost:{server.port}/livez", timeout=5)
        assert answer.status_code == 200


async def test_the_port_is_free_again_afterwards() -> None:
    """A restart within the same process or pod finds its port."""
    async with _Process().server() as server:
        port = server.port
    assert port is not None

    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_blocking_process_answers_from_a_thread() -> None:
    """A poll loop that blocks for seconds is still probed."""
    process = _Process()
    with HealthThread(process.server()) as server:
        process.not_ready.append("no partitions assigned")
        answer = httpx.get(f"http://127.0.0.1:{server.port}/readyz", timeout=5)

    assert answer.status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/readyz", timeout=5)


def test_a_thread_that_cannot_listen_fails_where_it_was_started(taken_port: int) -> None:
    """The relay ends with the same error as the worker, not with a dead thread."""
    with (
        pytest.raises(ConfigurationError),
        HealthThread(_Process().server(port=taken_port, port_is_fixed=True)),
    ):
        pass

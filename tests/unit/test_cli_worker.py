"""What a worker process is built of."""

from __future__ import annotations

from pathlib import Path

from sluicegate.cli.worker import _Composition
from sluicegate.settings import load_settings
from sluicegate.telemetry.traces import NO_TRACES

CONFIGURATION = """
[providers.main]
base_url = "http://127.0.0.1:1/v1"
timeout_s = 20
[providers.backup]
base_url = "http://127.0.0.1:2/v1"
timeout_s = 40
[limits."backup/small"]
requests_per_minute = 10
[streams.support-chat]
agent = "streams.support_chat:reply"
provider = "main"
model = "large"
fallback = ["main/small", "backup/small"]
"""


async def test_a_worker_has_one_limiter_a_scope_and_one_caller_a_provider(tmp_path: Path) -> None:
    """Routes of one scope share its limiter; calls on the wire get the longest time of all providers."""
    file = tmp_path / "sluicegate.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    build = _Composition(load_settings(file, {}), "support-chat", NO_TRACES)
    try:
        own, small, backup = build.routes
        assert [route.name for route in build.routes] == ["main", "main/small", "backup/small"]
        assert [route.model for route in build.routes] == ["large", "small", "small"]
        assert own.limiter is small.limiter
        assert own.caller is small.caller
        assert own.costs is not small.costs
        assert list(build.providers.limiters) == ["main", "backup/small"]
        assert backup.limiter is build.providers.limiters["backup/small"]
        assert build.parts.call_timeout_s == 40
        services = set(build.parts.services)
        assert {limiter.run for limiter in build.providers.limiters.values()} <= services
    finally:
        await build.redis.aclose()


async def test_a_probe_while_the_app_starts_makes_no_second_consumer(tmp_path: Path) -> None:
    """The health port asks from a thread of its own; Faust would make a consumer for whoever asks first."""
    file = tmp_path / "sluicegate.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")
    build = _Composition(load_settings(file, {}), "support-chat", NO_TRACES)
    try:
        app = build._build_app()
        app.finalize()
        app._started.set()  # as it is from the first moment of its start on
        assert build.liveness.not_ready()
        assert app._consumer is None
        assert app.consumer is app.made_consumer is build._consumer()
    finally:
        await build.redis.aclose()

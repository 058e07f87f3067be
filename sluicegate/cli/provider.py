"""`sluicegate provider`: the provider simulator."""

from __future__ import annotations

import asyncio
import math
import sys
from typing import Literal

from sluicegate.local.provider.quota import Enforcement, Limits
from sluicegate.local.provider.server import serve
from sluicegate.local.provider.simulator import Configuration

_WRONG_USAGE = 2


def provider(
    *,
    port: int = 8089,
    host: str = "127.0.0.1",
    requests_per_minute: float = 3000,
    tokens_per_minute: float = 250_000,
    input_tokens_per_minute: float | None = None,
    output_tokens_per_minute: float | None = None,
    concurrency: int | None = None,
    enforcement: Literal["bucket", "slice", "fixed", "log"] = "bucket",
    burst_s: float = 0.2,
    window_s: float = 60,
    latency_ms: float = 100,
    jitter_ms: float = 0,
    seed: int = 0,
) -> int:
    """Run the provider simulator: a real HTTP server that enforces limits.

    Prints one JSON line with its address when it listens. GET /stats has every call, POST /faults
    breaks things.

    Parameters
    ----------
    port
        Port to listen on; 0 takes a free one.
    host
        Address to listen on.
    requests_per_minute
        Requests that are admitted per minute.
    tokens_per_minute
        Tokens that are admitted per minute.
    input_tokens_per_minute
        In the Anthropic format also: prompt tokens that are admitted per minute. Unlimited when not given.
    output_tokens_per_minute
        In the Anthropic format also: answered tokens per minute, charged later. Unlimited when not given.
    concurrency
        Calls that may be in flight at once; more are refused. Unlimited when not given.
    enforcement
        How: a continuous bucket, slices of one second, fixed windows of the clock, or a strict sliding log.
    burst_s
        Seconds of the rate that a bucket admits at once; at least one request and 4096 tokens.
    window_s
        Seconds of a fixed window and of the log: each admits its share of a minute's limit at once.
    latency_ms
        Time that each answer takes.
    jitter_ms
        Up to this much more, at random.
    seed
        Seed of the jitter and of the faults that strike a share of the calls.
    """
    optional = (input_tokens_per_minute, output_tokens_per_minute, concurrency)
    given = [number for number in optional if number is not None]
    above_0 = (requests_per_minute, tokens_per_minute, burst_s, window_s, *given)
    delays = (latency_ms, jitter_ms)
    if not all(map(math.isfinite, (*above_0, *delays))) or min(above_0) <= 0 or min(delays) < 0:
        return _wrong(
            "limits, --burst-s and --window-s must be above 0, --latency-ms and --jitter-ms at least 0"
        )
    try:
        limits = Limits(
            enforcement=Enforcement(enforcement),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            input_tokens_per_minute=input_tokens_per_minute,
            output_tokens_per_minute=output_tokens_per_minute,
            burst_s=burst_s,
            window_s=window_s,
        )
    except ValueError as exc:
        return _wrong(f"{exc}: raise --window-s or the limits")
    configuration = Configuration(
        limits=limits, concurrency=concurrency, latency_ms=latency_ms, jitter_ms=jitter_ms, seed=seed
    )
    asyncio.run(serve(configuration, host=host, port=port))
    return 0


def _wrong(message: str) -> int:
    sys.stderr.write(f"sluicegate provider: {message}\n")
    return _WRONG_USAGE

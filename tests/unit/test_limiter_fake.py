"""What the fake limiter promises beyond the contract suite's reach: what takes longer than a test may."""

from __future__ import annotations

import pytest

from sluicegate.limiter.api import Ask, Cost, Lane, Permit, Signal, SignalKind
from sluicegate.limiter.fake import FakeLimiter


async def probed(limiter: FakeLimiter, kind: SignalKind) -> None:
    """Make the next probe, with this result."""
    circuit = limiter.circuit()
    assert circuit is not None
    limiter.advance(circuit.next_probe_s)
    permit = await limiter.acquire(Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=0))
    assert isinstance(permit, Permit)
    assert permit.is_probe
    limiter.settle(permit, None)
    await limiter.report(permit, Signal(kind=kind, reason="probe", event="e"))


async def test_the_wait_for_the_next_probe_doubles_up_to_a_minute() -> None:
    """An outage of a day is asked about once a minute."""
    limiter = FakeLimiter()
    limiter.open_circuit()
    waits = []
    for _ in range(6):
        circuit = limiter.circuit()
        assert circuit is not None
        waits.append(circuit.next_probe_s)
        await probed(limiter, SignalKind.HALTED)
    assert waits == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize(
    "kind", [SignalKind.ALIVE, SignalKind.RATE_LIMITED, SignalKind.RAMP_LIMITED, SignalKind.OVERLOADED]
)
async def test_any_answer_ends_an_outage(kind: SignalKind) -> None:
    """A provider that refuses is there again; the refusal itself is a block's business."""
    limiter = FakeLimiter()
    limiter.open_circuit(is_outage=True)
    await probed(limiter, kind)
    assert limiter.circuit() is None


@pytest.mark.parametrize("kind", [SignalKind.DOWN, SignalKind.HALTED])
async def test_an_outages_probe_that_fails_keeps_it_open(kind: SignalKind) -> None:
    """Credentials that went meanwhile are no answer."""
    limiter = FakeLimiter()
    limiter.open_circuit(is_outage=True)
    await probed(limiter, kind)
    assert limiter.circuit() is not None


async def test_a_probe_whose_process_died_keeps_the_circuit_open_for_a_minute_at_most() -> None:
    """The right to probe is lent, not given."""
    limiter = FakeLimiter()
    limiter.open_circuit()
    limiter.advance(5)
    await limiter.acquire(Ask(lane=Lane.BULK, cost=Cost(), origin_timestamp_ms=0))
    assert not limiter.wants_probe()
    limiter.advance(60)
    assert limiter.wants_probe()

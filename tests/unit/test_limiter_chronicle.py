"""What operators see of a scope."""

from __future__ import annotations

from sluicegate.limiter.api import Dimension
from sluicegate.limiter.booking import PerMinute, Quota, Reply
from sluicegate.limiter.chronicle import Chronicle
from sluicegate.telemetry.metrics import Metrics

_CALM = Reply(
    now_us=1,
    generation=1,
    blocked_until_us=0,
    blocked_by=Dimension.NONE,
    void_until_us=0,
    was_lost=False,
    is_leasing=False,
    wants_answers=False,
    has_probe=False,
    circuit=None,
    safe=1.0,
    learnt=(0.0, 0.0, 0.0, 0.0),
    raised_us=(0, 0, 0, 0),
    answers=(),
)


def in_force(metrics: Metrics) -> dict[str, float]:
    """What the gauge shows by dimension."""
    (family,) = metrics.limiter_in_force.collect()
    return {sample.labels["dimension"]: sample.value for sample in family.samples}


def test_the_limits_in_force_are_shown_from_the_start_and_follow_what_headers_told() -> None:
    """The number of workers is computed from them; a limit that is not there must not look like 0."""
    metrics = Metrics()
    chronicle = Chronicle("main", Quota(requests_per_minute=600), metrics)
    assert in_force(metrics) == {"requests-per-minute": 600}

    told: PerMinute = (300.0, 9000.0, 0.0, 0.0)
    chronicle.saw(_CALM, told, None)
    assert in_force(metrics) == {"requests-per-minute": 300, "tokens-per-minute": 9000}

    chronicle.saw(_CALM, (600.0, 0.0, 0.0, 0.0), None)
    assert in_force(metrics) == {"requests-per-minute": 600}

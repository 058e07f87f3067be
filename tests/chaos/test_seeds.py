"""A few seeds of the storm, every time the tests run: G1 to G7 under kills, outages and broken answers.

`make chaos` runs as many as one likes. A seed that failed once and was mended is a test of its own here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.conductor import run_seed
from tests.chaos.report import details, line
from tests.chaos.stand import Broker

pytestmark = [pytest.mark.slow, pytest.mark.real_kafka, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    "seed",
    [
        # Failed once: a batch that had waited too long for its partition's leader left a gap in what the
        # broker counts, and nothing behind it was ever published.
        pytest.param(2, id="2-broker-away-for-longer-than-a-publish-may-wait"),
        # Failed once: a refused result left the same gap.
        pytest.param(9, id="9-results-refused-for-a-while"),
        pytest.param(7, id="7-killed-and-stopped-workers-a-killed-broker-an-empty-redis"),
    ],
)
def test_a_storm_breaks_no_promise(seed: int, broker: Broker, tmp_path: Path) -> None:
    """G1 to G7: what the checker finds in Kafka and in the provider's records after a seed's faults."""
    run = run_seed(seed, broker, tmp_path)
    print(line(run))
    assert run.is_good, details(run)

"""The duel's short form, end to end: processes, judge and Redis."""

from __future__ import annotations

import pytest

from benchmarks.duel.bout import fight
from benchmarks.duel.entrants import entrants
from benchmarks.duel.figures import figures
from benchmarks.duel.workload import quick_workload
from sluicegate.local.provider.quota import Enforcement


@pytest.mark.slow
def test_our_limiter_uses_a_bucket_to_the_full_without_the_refusals_of_plain_backoff() -> None:
    """In 8 s of the duel ours uses 90 % of the limit and gets at most 5 429s per 1000; backoff gets many."""
    work = quick_workload(Enforcement.BUCKET, seed=7)
    (ours, recipe), absent = entrants(["ours", "recipe"])

    our_figures = figures(fight(ours, work), work)
    recipe_figures = figures(fight(recipe, work), work)

    assert not absent
    assert our_figures.utilisation >= 0.9
    assert our_figures.refused_per_1000 <= 5
    assert our_figures.never_served == 0
    assert recipe_figures.refused_per_1000 > 10 * max(1.0, our_figures.refused_per_1000)

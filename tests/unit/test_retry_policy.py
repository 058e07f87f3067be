"""How long to wait: bounds, jitter and tiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.retry.policy import (
    RetryPolicy,
    backoff_ceiling_s,
    behind_delay_s,
    due_at_ms,
    has_expired,
    in_place_delay_s,
    spread_delay_s,
    tier_bounds_s,
    tier_delay_s,
    tier_for,
)
from sluicegate.settings import load_settings

POLICY = RetryPolicy(
    in_place_max_s=5.0,
    base_s=1.0,
    cap_s=3600.0,
    tiers_s=(5.0, 30.0, 120.0, 600.0, 3600.0),
    horizon_s=604_800.0,
    max_attempts=8,
    deadline_s=86_400.0,
    expires_after_s=0.0,
)
draws = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 10**6)
waits_s = st.floats(0, 2 * POLICY.horizon_s)
tiers = st.lists(st.integers(1, 10_000), min_size=1, max_size=8, unique=True).map(
    lambda bounds: tuple(float(bound) for bound in sorted(bounds))
)


def always(value: float) -> Callable[[], float]:
    """A source of randomness that knows one number."""
    return lambda: value


def test_the_policy_is_made_of_the_settings() -> None:
    """What is written under [retry] and [streams.*] is what decides."""
    settings = load_settings(None, {"SLUICEGATE_STREAMS__SUPPORT_CHAT__MAX_ATTEMPTS": "3"})
    policy = RetryPolicy.from_settings(settings.retry, settings.stream("support-chat"))
    assert policy == replace(POLICY, max_attempts=3)


@given(attempt=attempts, base=st.integers(1, 100), factor=st.integers(1, 10_000))
def test_the_ceiling_doubles_up_to_the_cap(attempt: int, base: int, factor: int) -> None:
    """min(cap, base x 2^(attempt - 1)), in exact numbers, and finite for any attempt."""
    policy = replace(POLICY, base_s=float(base), cap_s=float(base * factor))
    exact = min(Fraction(base * factor), Fraction(base) * 2 ** min(attempt - 1, 64))
    assert backoff_ceiling_s(attempt, policy) == exact


@given(attempt=attempts, draw=draws)
def test_jitter_in_place_fills_the_whole_ceiling(attempt: int, draw: float) -> None:
    """Full jitter: any wait from none to the ceiling."""
    ceiling_s = backoff_ceiling_s(attempt, POLICY)
    assert 0 <= in_place_delay_s(attempt, POLICY, always(draw)) < ceiling_s
    assert in_place_delay_s(attempt, POLICY, always(0)) == 0


@given(attempt=attempts, draw=draws)
def test_jitter_for_a_tier_fills_the_upper_half(attempt: int, draw: float) -> None:
    """A parked event waits at least half of the ceiling."""
    ceiling_s = backoff_ceiling_s(attempt, POLICY)
    assert ceiling_s / 2 <= tier_delay_s(attempt, POLICY, always(draw)) <= ceiling_s
    assert tier_delay_s(attempt, POLICY, always(0)) == ceiling_s / 2


def test_jitter_at_the_cap_is_drawn_and_not_clamped() -> None:
    """At the cap waits still differ: clamping would release everybody at one moment."""
    random = Random(1).random
    waits = [tier_delay_s(40, POLICY, random) for _ in range(2000)]
    assert len(set(waits)) == 2000
    assert max(waits) <= POLICY.cap_s
    quarters = [sum(low <= wait < low + 450 for wait in waits) for low in (1800, 2250, 2700, 3150)]
    assert min(quarters) > 400


@given(wait_s=waits_s, draw=draws)
def test_a_retry_after_is_kept_and_spread(wait_s: float, draw: float) -> None:
    """Retry-After + U(0, spread), spread = 10 % and at least 1 s, and never beyond the horizon."""
    delay_s = spread_delay_s(wait_s, POLICY, always(draw))
    assert delay_s <= POLICY.horizon_s
    spread_s = max(1.0, wait_s / 10)
    if wait_s + spread_s <= POLICY.horizon_s:
        assert delay_s == pytest.approx(wait_s + spread_s * draw)
        assert delay_s >= wait_s
    else:
        assert delay_s >= min(wait_s, POLICY.horizon_s) - POLICY.horizon_s / 10 - 1e-6


def test_a_retry_after_beyond_the_horizon_is_still_spread() -> None:
    """Even the longest waits do not all end at one moment."""
    random = Random(2).random
    waits = {spread_delay_s(10 * POLICY.horizon_s, POLICY, random) for _ in range(500)}
    assert len(waits) == 500
    assert max(waits) <= POLICY.horizon_s


@given(predecessor_s=st.floats(0, POLICY.horizon_s), deferrals=st.integers(0, 10**6), draw=draws)
def test_a_follower_is_never_before_its_predecessor_nor_at_once(
    predecessor_s: float, deferrals: int, draw: float
) -> None:
    """At least the predecessor's wait and min(30 s, 1 s x 2^deferrals), jittered above that."""
    floor_s = min(30, 2 ** min(deferrals, 10))
    delay_s = behind_delay_s(predecessor_s, deferrals, POLICY, always(draw))
    assert delay_s >= predecessor_s
    assert delay_s >= min(floor_s, POLICY.horizon_s)
    assert delay_s <= max(max(floor_s, predecessor_s) * 1.1 + 1, predecessor_s)


def test_followers_of_one_key_are_spread() -> None:
    """Followers of an event that is due now do not come back as one herd."""
    random = Random(3).random
    assert len({behind_delay_s(0, 0, POLICY, random) for _ in range(500)}) == 500


@given(delay_s=st.floats(0, 20_000), bounds=tiers)
def test_the_tier_is_the_bucket_that_holds_the_delay(delay_s: float, bounds: tuple[float, ...]) -> None:
    """The first tier whose maximum is above the delay, found one by one; beyond all of them the last."""
    tier = next((n for n, most in enumerate(bounds, 1) if delay_s < most), len(bounds))
    assert tier_for(delay_s, bounds) == tier
    least_s, most_s = tier_bounds_s(tier, bounds)
    assert least_s <= delay_s
    assert delay_s < most_s or tier == len(bounds)


@pytest.mark.parametrize(("delay_s", "tier"), [(0, 1), (4.999, 1), (5, 2), (3599, 5), (3600, 5), (10**6, 5)])
def test_the_default_tiers_split_where_they_say(delay_s: float, tier: int) -> None:
    """A delay of exactly a tier's maximum belongs to the next one."""
    assert tier_for(delay_s, POLICY.tiers_s) == tier


@given(delay_s=st.floats(0, POLICY.horizon_s))
def test_a_due_time_is_rounded_up(delay_s: float) -> None:
    """Rounding never makes a record early."""
    due_ms = due_at_ms(1_800_000_000_000, delay_s) - 1_800_000_000_000
    assert due_ms >= delay_s * 1000
    assert due_ms - delay_s * 1000 < 1.001


def test_expiry_runs_from_the_events_own_time() -> None:
    """It is off by default, does not concern events without a time, and begins at the very millisecond."""
    policy = replace(POLICY, expires_after_s=2.5)
    assert has_expired(1000, policy, 3500)
    assert not has_expired(1000, policy, 3499)
    assert not has_expired(None, policy, 10**15)
    assert not has_expired(1000, POLICY, 10**15)

"""From the settings to the quota that a scope's limiter is built with."""

from __future__ import annotations

from sluicegate.limiter.booking import Quota
from sluicegate.settings import Settings


def quota_for(settings: Settings, scope: str) -> Quota:
    """Return what the scope's `[limits]` section allows; without one, everything."""
    limits = settings.limits.get(scope)
    bulk_share = settings.limiter.bulk_share
    if limits is None:
        return Quota(bulk_share=bulk_share)
    return Quota(
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        input_tokens_per_minute=limits.input_tokens_per_minute,
        output_tokens_per_minute=limits.output_tokens_per_minute,
        requests_per_day=limits.requests_per_day,
        tokens_per_day=limits.tokens_per_day,
        dollars_per_day=limits.dollars_per_day,
        concurrency=limits.concurrency,
        burst_s=limits.burst_s,
        bulk_share=bulk_share,
        strict_window_s=limits.strict_window_s,
        largest_call_tokens=limits.largest_call_tokens,
        learn=limits.learn,
    )

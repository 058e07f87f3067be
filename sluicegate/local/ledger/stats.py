"""Reads the provider simulator's `GET /stats` answer for the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sluicegate.local.ledger.provider import Call, Cut, ProviderHistory, Quota


def read_stats(stats: Mapping[str, Any], *, burst_s: float) -> ProviderHistory:
    """Return the calls and the quota; `burst_s` is how far ahead of an even pace callers may go.

    The quota outside cuts must not change during the run: the first open period stands for all.
    """
    timeline = stats["timeline"]
    opened = next((period for period in timeline if not period["cut"]), timeline[0])
    rate = opened["requests_per_minute"]
    return ProviderHistory(
        calls=tuple(_call(call) for call in stats["calls"]),
        quota=Quota(
            requests_per_minute=rate,
            tokens_per_minute=opened["tokens_per_minute"],
            burst_requests=max(1.0, burst_s * (rate or 0.0) / 60),
            bucket_requests=opened["burst_requests"] or 0.0,
            bucket_tokens=opened["burst_tokens"] or 0.0,
            cuts=tuple(
                Cut(start_s=period["from"], end_s=period["to"] or stats["now"])
                for period in timeline
                if period["cut"]
            ),
        ),
    )


def _call(call: Mapping[str, Any]) -> Call:
    is_completed = call["status"] == 200 and call["completed_at"] is not None and call["fault"] is None
    return Call(
        at_s=call["received_at"],
        request_id=call["request_id"],
        status=call["status"] or 0,
        is_admitted=call["admitted"],
        is_completed=is_completed,
        tokens=call["tokens_charged"],
    )

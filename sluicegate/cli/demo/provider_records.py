"""Asks the provider simulator for its records and tells it what to break; another provider has neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

_TIMEOUT_S = 10.0


class ProviderRecords:
    """A provider's `/stats` and `/faults`, where it has them. `root` is its address."""

    def __init__(self, root: str) -> None:
        self._client = httpx.Client(
            base_url=root.rstrip("/").removesuffix("/v1"), timeout=_TIMEOUT_S, trust_env=False
        )

    def close(self) -> None:
        """Close its connection."""
        self._client.close()

    def summary(self) -> Mapping[str, Any] | None:
        """Return the figures without the single calls; None where the provider keeps none."""
        return self._get("/stats?summary=1")

    def everything(self) -> Mapping[str, Any] | None:
        """Return the figures and every call."""
        return self._get("/stats")

    def cut(self, for_s: float) -> bool:
        """Refuse every call for so long, with Retry-After to its end; False where it cannot be asked."""
        try:
            answer = self._client.post("/faults", json={"kind": "cut", "for_s": for_s})
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    def _get(self, path: str) -> Mapping[str, Any] | None:
        try:
            answer = self._client.get(path)
            found = answer.json() if answer.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError):
            return None
        return found if isinstance(found, dict) and "timeline" in found else None

"""The routes that a stream's calls may take: its own provider and model, then its fallbacks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way to an answer. `scope` names the limits that its calls are booked on."""

    provider: str
    model: str
    scope: str


def read_fallback(text: str, own_model: str) -> tuple[str, str]:
    """Return provider and model of `PROVIDER` (the stream's own model) or `PROVIDER/MODEL`.

    Only the first slash divides: models may have slashes in their names, providers have none.
    """
    provider, slash, model = text.partition("/")
    return provider, model if slash else own_model

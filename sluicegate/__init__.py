"""What other services import by name. Nothing is loaded before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["AsyncPublisher", "AsyncResultReader", "Envelope", "LlmClient", "Publisher", "ResultReader"]

if TYPE_CHECKING:
    from sluicegate.direct.client import LlmClient
    from sluicegate.events.making import Envelope
    from sluicegate.services.async_publisher import AsyncPublisher
    from sluicegate.services.async_result_reader import AsyncResultReader
    from sluicegate.services.publisher import Publisher
    from sluicegate.services.result_reader import ResultReader
else:
    # Where each name is found. A checker of types sees the imports above instead, and no other names.
    _HOMES = {
        "AsyncPublisher": "sluicegate.services.async_publisher",
        "AsyncResultReader": "sluicegate.services.async_result_reader",
        "Envelope": "sluicegate.events.making",
        "LlmClient": "sluicegate.direct.client",
        "Publisher": "sluicegate.services.publisher",
        "ResultReader": "sluicegate.services.result_reader",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

"""What other services import by name. Nothing is loaded before it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = ["LlmClient"]

if TYPE_CHECKING:
    from sluicegate.direct.client import LlmClient
else:
    # Where each name is found. A checker of types sees the imports above instead, and no other names.
    _HOMES = {
        "LlmClient": "sluicegate.direct.client",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

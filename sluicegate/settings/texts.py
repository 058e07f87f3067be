"""Texts in the settings that must have a shape; no error quotes them."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

_TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")


def checked_topic_name(value: str) -> str:
    """Return the name; ValueError when Kafka takes no topic, group or member of it."""
    if not _TOPIC_NAME.fullmatch(value):
        raise ValueError("must be 1 to 249 letters, digits, dots, underscores or dashes")
    return value


def split_url(value: str) -> Any:
    """Split an address; None when it is none. The parser's own error would quote it."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts

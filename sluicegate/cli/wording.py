"""How quantities and foreign text are said to people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

_TEXT_LENGTH = 80


def duration(seconds: float) -> str:
    """Say a duration in the one or two units that matter: `8 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds <= 0:
        return "now"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest_s} s" if rest_s else "")
    hours, rest_min = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {rest_min} min" if rest_min else "")
    days, rest_h = divmod(hours, 24)
    return f"{days} d" + (f" {rest_h} h" if rest_h else "")


def moment(unix_ms: int) -> str:
    """Say when something was, in UTC and to the second."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def printable(text: str, length: int = _TEXT_LENGTH) -> str:
    """Return foreign text as one line that no terminal takes for a command, cut to a length."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def counted(counts: Mapping[str, int], most: int | None = None) -> str:
    """Say counts by name, the largest first: `timeout 12, overloaded 3`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{printable(name)} {count}" for name, count in ordered[:most]]
    if left := len(ordered) - len(shown):
        shown.append(f"{left} more")
    return ", ".join(shown)

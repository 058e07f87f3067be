"""How quantities are said to people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Say a duration in the one or two units that matter: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds <= 0:
        return "now"
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest_s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest_s} s" if rest_s else "")
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h" + (f" {rest_min} min" if rest_min else "")

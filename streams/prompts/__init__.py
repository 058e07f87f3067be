"""The instructions that the shipped handlers give, one file each, read when first needed."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def prompt(name: str) -> str:
    """Return the text of `name`.md without the surrounding white space."""
    return files(__package__).joinpath(f"{name}.md").read_text(encoding="utf-8").strip()

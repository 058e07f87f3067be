"""docs/settings.md says what the settings are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluicegate.settings import Settings
from sluicegate.settings.catalogue import markdown, unit
from sluicegate.settings.environment import Overlay
from sluicegate.settings.model import section_fields

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
KEYS = [(section, key) for section in Settings.model_fields for key in section_fields(section)]
COUNTS = {"partitions", "replication_factor", "concurrency", "max_running", "max_attempts", "max_replays"}
WITHOUT_A_UNIT = COUNTS | {"bulk_share", "port"}

_ROW = re.compile(r"^\| `([a-z_]+)` \| (.*) \| `(SLUICEGATE_[A-Z_]+)` \|$", re.MULTILINE)


def test_the_documented_settings_are_the_settings() -> None:
    """`python -m sluicegate.settings.catalogue > docs/settings.md` writes nothing new."""
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_every_key_has_its_row_and_its_variable_sets_it() -> None:
    """Whoever copies a variable from the page has set the key that stands in the same row."""
    rows = _ROW.findall(markdown())
    assert sorted(key for key, _, _ in rows) == sorted(key for _, key in KEYS)
    for key, _, variable in rows:
        overlay = Overlay({variable: "1"})
        overlay.apply({})
        ((section, *_, own),) = overlay.variables
        assert own == key
        assert variable.startswith(f"SLUICEGATE_{section.upper()}__")


def test_every_number_says_its_unit_or_is_a_count() -> None:
    """A number whose unit nobody knows gets the wrong one; a new key's name says it."""
    numbers = set(
        re.findall(r"^\| `([a-z_]+)` \| (?:list, each: )?(?:whole )?number", markdown(), re.MULTILINE)
    )
    assert {key for key in numbers if not unit(key)} == WITHOUT_A_UNIT


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("learn", '| `follow`, `lower`, `off` |  | `"follow"` |'),
        ("lane", '| `interactive`, `bulk` |  | `"interactive"` |'),
        ("profile", "| `openai`, `azure`, `anthropic`, `generic` |  | as `format` |"),
        ("tiers_s", "| list, each: number, above 0 | seconds | `[5, 30, 120, 600, 3600]` |"),
        ("dollars_per_day", "| number, above 0 | dollars per day | none |"),
        ("ordered", "| `true`, `false` |  | `false` |"),
        ("agent", "| text |  | required |"),
    ],
)
def test_a_row_says_type_unit_and_default_as_they_are_written(key: str, row: str) -> None:
    """Choices, bounds and defaults are shown in the spelling that the file takes."""
    assert f"| `{key}` {row}" in markdown()

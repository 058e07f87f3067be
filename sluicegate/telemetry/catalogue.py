"""docs/metrics.md, written from the metrics themselves."""

from __future__ import annotations

import sys

from sluicegate.telemetry.families import Family
from sluicegate.telemetry.labels import OTHER, Label
from sluicegate.telemetry.metrics import Metrics

_HEAD = """# Metrics

Generated from the code by `python -m sluicegate.telemetry.catalogue > docs/metrics.md`; a test keeps it so.

""" + (
    "Worker and relay serve them on `/metrics`, `sluicegate.LlmClient` in its `registry`. Every process has "
    "all of them and fills its own: those called `relay_…` the relay, those of calls and limits the workers. "
    "Values of one process count its own partitions, so add them up (`sum by (stream)`); limits, blocks and "
    "circuits are the same for all, so take the largest (`max by (scope)`). What to do when one of "
    "them looks wrong is in the [runbook](runbook.md).\n"
)
_LABELS = (
    "\n## Labels\n\nEvery value comes from a closed set or from the configuration, never from an event. "
    "A value that its set does not have, such as a reason written by a newer version, is counted as "
    f"`{OTHER}`.\n\n| label | of | values |\n|---|---|---|\n"
)
_PROCESS = (
    "\nBeside these `sluicegate_process_…` (resident memory, CPU, open files, start time), as Prometheus's "
    "own client exports them, where there is a `/proc`.\n"
    "\n## Repairs\n\n`null-key`, `retry-header`, `unreadable-due` and `clamped-due` come from publishers or "
    "foreign tools. `step-mismatch`: a handler's prompt changed under an event, whose step is paid again. "
    "`switch-lost` and `gate-healed`: Redis lost writes. `lease-round-lost`: Redis was away. "
    "`predecessor-dead-lettered`: an event went on without an earlier one of its key. `done-map-…`: a "
    "commit's metadata was not believed, and what it listed ran again.\n"
)


def markdown() -> str:
    """Return the page."""
    families = sorted(Metrics().families, key=lambda family: family.name)
    rows = "".join(_row(family) for family in families)
    table = f"\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"
    return _HEAD + table + _LABELS + "".join(_label_rows(families)) + _PROCESS


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label.name}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |\n"


def _label_rows(families: list[Family]) -> list[str]:
    found: dict[Label, list[str]] = {}
    for family in families:
        for label in family.labels:
            found.setdefault(label, []).append(family.name)
    return [
        f"| `{label.name}` | {_users(names)} | {_values(label)} |\n"
        for label, names in sorted(found.items(), key=lambda item: item[0].name)
    ]


def _users(names: list[str]) -> str:
    short = [f"`{name.removeprefix('sluicegate_')}`" for name in names]
    return ", ".join(short) if len(short) <= 4 else f"{len(short)} metrics"


def _values(label: Label) -> str:
    return label.configured or ", ".join(f"`{value}`" for value in sorted(label.values))


if __name__ == "__main__":
    sys.stdout.write(markdown())

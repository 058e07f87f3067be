"""How `sluicegate limits` shows scopes, to programs and to people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluicegate.cli.wording import duration
from sluicegate.limiter.booking import EPOCH_S, MINUTE_DIMENSIONS, Answer, ProcessReport, Verdict
from sluicegate.limiter.levels import Block, Level, OpenCircuit, ProcessLevel, ScopeLevels, SlowStart

_BAR_CELLS = 10
_INDENT = (0, 0, 0, 2)
_FIRST_CELLS = 24
_NEARLY = 0.8
_MANY = 100
_TENTHS_BELOW_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLook:
    """One scope as it was found. `is_named`: the settings know it; else its configured limits are unknown."""

    scope: str
    is_named: bool
    levels: ScopeLevels


# --- programs --------------------------------------------------------------------------------------


def as_json(looks: Sequence[ScopeLook]) -> dict[str, Any]:
    """Return what `--json` prints: one object a scope; times as seconds from now, `_ms` since the epoch."""
    return {"scopes": [_scope_json(look) for look in looks]}


def _scope_json(look: ScopeLook) -> dict[str, Any]:
    levels = look.levels
    now_us = levels.now_us
    return {
        "scope": look.scope,
        "in_settings": look.is_named,
        "is_used": levels.is_used,
        "at_ms": _epoch_ms(now_us),
        "dimensions": {level.dimension.value: _level_json(level) for level in levels.levels},
        "next_call": _next_call_json(levels.next_call),
        "blocked": levels.block and _block_json(levels.block, now_us),
        "safe_factor": round(levels.safe, 4),
        "slow_start": levels.slow_start and _slow_start_json(levels.slow_start, now_us),
        "overload_ceiling_calls": levels.ceiling and round(levels.ceiling, 2),
        "circuit": levels.circuit and _circuit_json(levels.circuit, now_us),
        "bulk_share": levels.bulk_share,
        "interactive_waits": levels.interactive_waits,
        "processes": {each.process: _process_json(each, now_us) for each in levels.processes},
    }


def _level_json(level: Level) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "limit": level.limit,
        "configured": level.configured,
        "learnt": level.learnt,
        "used": round(level.used, 6),
        "used_share": round(level.share, 6),
    }
    if level.dimension in MINUTE_DIMENSIONS:
        burst_share = level.burst_share
        shown["burst_share"] = None if burst_share is None else round(burst_share, 4)
        shown["refilled_in_s"] = level.debt_us / 1e6
    return shown


def _next_call_json(answer: Answer) -> dict[str, Any]:
    """Say the wait; a call of the usual size that is larger than a limit has none."""
    fits = answer.verdict is not Verdict.NEVER
    return {"wait_s": answer.wait_us / 1e6 if fits else None, "bound_by": answer.dimension.value}


def _block_json(block: Block, now_us: int) -> dict[str, Any]:
    return {
        "cause": block.cause.value,
        "for_s": (block.until_us - now_us) / 1e6,
        "until_ms": _epoch_ms(block.until_us),
    }


def _slow_start_json(slow_start: SlowStart, now_us: int) -> dict[str, Any]:
    return {"factor": round(slow_start.factor, 4), "for_s": (slow_start.until_us - now_us) / 1e6}


def _circuit_json(circuit: OpenCircuit, now_us: int) -> dict[str, Any]:
    return {
        "reason": circuit.reason,
        "open_for_s": (now_us - circuit.since_us) / 1e6,
        "since_ms": _epoch_ms(circuit.since_us),
        "next_probe_s": max(0, circuit.probe_at_us - now_us) / 1e6,
        "is_probing": circuit.is_probing,
        "prober": circuit.prober,
    }


def _process_json(process: ProcessLevel, now_us: int) -> dict[str, Any]:
    return {
        "seen_s_ago": max(0, now_us - process.seen_us) / 1e6,
        "on_the_wire_calls": process.report.in_flight,
        "waiting_interactive_calls": process.report.waiting_interactive,
        "waiting_bulk_calls": process.report.waiting_bulk,
        "booked_calls": process.report.booked,
    }


def _epoch_ms(us: int) -> int:
    return EPOCH_S * 1_000 + us // 1_000


# --- people ----------------------------------------------------------------------------------------


def as_table(looks: Sequence[ScopeLook]) -> RenderableType:
    """Return what people see: a scope's state in words, its limits, and who is there."""
    parts: list[RenderableType] = []
    for look in looks:
        if parts:
            parts.append(Text())
        parts.extend(_scope_parts(look))
    return Group(*parts)


def _scope_parts(look: ScopeLook) -> Iterator[RenderableType]:
    levels = look.levels
    yield _headline(look)
    for sentence in _sentences(levels):
        yield Padding(sentence, _INDENT)
    if levels.levels:
        yield Padding(_limits_table(levels.levels), _INDENT)
    elif look.is_named:
        yield Padding(Text("no limit is set or known", style="dim"), _INDENT)
    if levels.processes:
        yield Padding(_processes_table(levels), _INDENT)


def _headline(look: ScopeLook) -> Text:
    headline = Text.assemble((look.scope, "bold"), "  ", _state(look.levels))
    if not look.is_named:
        headline.append("  not in these settings", style="dim")
    return headline


def _state(levels: ScopeLevels) -> Text:
    """Say in one phrase whether calls may go."""
    if (circuit := levels.circuit) is not None:
        age = span(levels.now_us - circuit.since_us)
        return Text(f"circuit open for {age}: {circuit.reason}", style="bold red")
    if (block := levels.block) is not None:
        return Text(
            f"blocked for {span(block.until_us - levels.now_us)}: {block.cause.value}", style="yellow"
        )
    if not levels.is_used:
        return Text("no call yet", style="dim")
    answer = levels.next_call
    if answer.verdict is Verdict.NEVER:
        return Text(f"a usual call is larger than {answer.dimension.value}", style="yellow")
    if answer.wait_us <= 0:
        return Text("next call now", style="green")
    return Text(f"next call in {span(answer.wait_us)}: {answer.dimension.value}", style="green")


def _sentences(levels: ScopeLevels) -> Iterator[Text]:
    """Say what else makes calls slower than the limits do."""
    now_us = levels.now_us
    if (circuit := levels.circuit) is not None:
        probe = "a probe may go now"
        if circuit.is_probing:
            probe = f"{_short(circuit.prober or 'a process')} probes"
        elif circuit.probe_at_us > now_us:
            probe = f"next probe in {span(circuit.probe_at_us - now_us)}"
        also = f"; also blocked for {span(levels.block.until_us - now_us)}" if levels.block else ""
        yield Text(f"{probe}{also}")
    if levels.safe < 1:
        yield Text(f"after 429s: {levels.safe:.0%} of the limits is used")
    if (slow_start := levels.slow_start) is not None:
        rest = span(slow_start.until_us - now_us)
        yield Text(f"slow start: {slow_start.factor:.0%} of the rate, all of it in {rest}")
    if levels.ceiling is not None:
        yield Text(f"overload: at most {levels.ceiling:.1f} calls at once, growing with each answer")
    if levels.interactive_waits:
        yield Text(f"interactive calls wait: bulk gets its {levels.bulk_share:.0%}")


def _limits_table(levels: Sequence[Level]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("limit", min_width=_FIRST_CELLS)
    for heading in ("configured", "learnt", "in force", "used"):
        table.add_column(heading, justify="right", min_width=10)
    table.add_column("level")
    for level in levels:
        is_other = level.limit != level.configured
        table.add_row(
            level.dimension.value,
            _amount(level.configured),
            _amount(level.learnt),
            Text(_amount(level.limit), style="yellow" if is_other else ""),
            _amount(level.used),
            _level(level),
        )
    return table


def _processes_table(levels: ScopeLevels) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("process", min_width=_FIRST_CELLS)
    for heading in ("on the wire", "booked", "interactive waiting", "bulk waiting"):
        table.add_column(heading, justify="right", min_width=10)
    table.add_column("seen")
    rows = [(each, _figures(each.report)) for each in levels.processes]
    for each, figures in rows:
        ago = f"{span(levels.now_us - each.seen_us)} ago"
        table.add_row(_short(each.process), *(f"{figure:,}" for figure in figures), ago)
    if len(rows) > 1:
        totals = map(sum, zip(*(figures for _, figures in rows), strict=True))
        table.add_row(f"all {len(rows)}", *(f"{total:,}" for total in totals), style="bold")
    return table


def _figures(report: ProcessReport) -> tuple[int, int, int, int]:
    return (report.in_flight, report.booked, report.waiting_interactive, report.waiting_bulk)


def _level(level: Level) -> Text:
    """Draw how full a dimension is: a minute's burst and when it has refilled, else the part of the limit."""
    if level.dimension not in MINUTE_DIMENSIONS:
        return _bar(level.share).append(f" {level.share:.0%}")
    share = level.burst_share
    bar = _bar(float(level.debt_us > 0) if share is None else share)
    return bar.append(f" {span(level.debt_us)}") if level.debt_us else bar


def _bar(share: float) -> Text:
    cells = min(_BAR_CELLS, round(share * _BAR_CELLS))
    style = "green" if share < _NEARLY else "yellow"
    return Text.assemble(("█" * cells, style), ("░" * (_BAR_CELLS - cells), "dim"))


def _amount(amount: float | None) -> str:
    """Say an amount with as many digits as tell something; nothing for None."""
    if amount is None:
        return ""
    return f"{amount:,.0f}" if amount >= _MANY or amount == int(amount) else f"{amount:,.2f}"


def span(us: int) -> str:
    """Say how long something lasts: milliseconds and tenths of a second too, for they matter here."""
    seconds = max(0, us) / 1e6
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < _TENTHS_BELOW_S else duration(seconds)


def _short(process: str) -> str:
    return process if len(process) <= _FIRST_CELLS else f"{process[: _FIRST_CELLS - 1]}…"

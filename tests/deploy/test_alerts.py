"""Alerts and dashboard: they fire when they must, name what exists, and somebody is told what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluicegate.telemetry.catalogue import markdown
from tests.deploy.checks_scaling import exported_series

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "observability" / "prometheus" / "rules" / "sluicegate.yml"
OPERATORS_RULES = ROOT / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
DASHBOARD = ROOT / "deploy" / "observability" / "grafana" / "dashboards" / "sluicegate.json"
RUNBOOK = ROOT / "docs" / "runbook.md"
UNIT_TESTS = Path(__file__).with_name("alerts.yml")

# What Prometheus and its client library add to our own metrics.
FOREIGN = {
    "up": frozenset[str](),
    "sluicegate_process_resident_memory_bytes": frozenset[str](),
    "sluicegate_process_cpu_seconds_total": frozenset[str](),
    "sluicegate_process_open_fds": frozenset[str](),
    "sluicegate_process_start_time_seconds": frozenset[str](),
}
TARGET_LABELS = {"job", "instance", "namespace", "pod", "le"}
_NAME = re.compile(r"\b(?:sluicegate_\w+|up)\b(?!\s*\()")
_MATCHERS = re.compile(r"\b(sluicegate_\w+|up)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*[=!]~?\s*"')
_GROUPED = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; a machine without it skips."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def alerts() -> Mapping[str, Any]:
    """Return the alerting rules by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@cache
def series() -> Mapping[str, frozenset[str]]:
    """Return the labels of every series there is, by its name."""
    return {**exported_series(), **FOREIGN}


def faults(expression: str, *, legend: str = "") -> Iterator[str]:
    """Name the series, and their labels, that an expression asks for in vain."""
    names = set(_NAME.findall(expression))
    labels = set(TARGET_LABELS).union(*(series().get(name, frozenset()) for name in names))
    if not names:
        yield f"no metric in: {expression}"
    yield from (f"no metric {name}" for name in names - set(series()))
    for name, matchers in _MATCHERS.findall(expression):
        asked = set(_MATCHER.findall(matchers))
        yield from (
            f"{name} has no {label}" for label in asked - series().get(name, frozenset()) - TARGET_LABELS
        )
    for grouped in _GROUPED.findall(expression):
        yield from (f"nothing has {label}" for label in _words(grouped) - labels)
    yield from (f"the legend's {label} is nowhere" for label in set(_LEGEND.findall(legend)) - labels)


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def queries(dashboard: Any) -> Iterator[tuple[str, str]]:
    """Yield every query of a dashboard with its legend; variables stand for anything."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target.get("legendFormat", "")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert found is not None, variable["query"]
            yield f'{found[1]}{{{found[2]}=""}}', ""


def test_every_alert_fires_when_it_must_and_is_quiet_otherwise(tmp_path: Path) -> None:
    """promtool evaluates each rule over time, on series that deserve it and on some that only look so."""
    bare = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in bare["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(bare), encoding="utf-8")
    tests = yaml.safe_load(UNIT_TESTS.read_text(encoding="utf-8"))
    named = [(test.pop("name"), test) for test in tests["tests"]]  # older promtools know no names
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({**tests, "rule_files": ["rules.yml"], "tests": [test for _, test in named]}),
        encoding="utf-8",
    )

    done = promtool("test", "rules", str(tmp_path / "tests.yml"))

    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name, _ in named} == {
        f"{alert} {outcome}" for alert in alerts() for outcome in ("fires", "is quiet")
    }


def test_the_rules_are_rules_of_prometheus() -> None:
    """Expressions and the templates of their annotations are read without a complaint."""
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_rules_are_the_same() -> None:
    """Who runs Kubernetes is paged for what compose's Prometheus shows."""
    theirs = yaml.safe_load(OPERATORS_RULES.read_text(encoding="utf-8"))
    assert theirs["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_names_what_exists_and_leads_to_its_entry(alert: str) -> None:
    """A misspelt label never fires; and whoever is paged finds what to do."""
    rule = alerts()[alert]
    annotations = rule["annotations"]
    assert list(faults(rule["expr"], legend=annotations["summary"] + annotations["description"])) == []
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert annotations["runbook"] == f"docs/runbook.md#{alert.lower()}"


def test_each_alert_has_its_entry_and_each_entry_its_alert() -> None:
    """The runbook says what each means, what to look at and what to do; nothing in it is out of date."""
    text = RUNBOOK.read_text(encoding="utf-8")
    entries = dict(re.findall(r"^### (Sluicegate\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(entries) == set(alerts())
    for name, entry in entries.items():
        assert all(f"**{part}**" in entry for part in ("Means.", "Look.", "Do.")), name


def test_the_runbooks_commands_exist() -> None:
    """At three in the morning a command that is no more is worse than none."""
    text = RUNBOOK.read_text(encoding="utf-8")
    commands = {path.stem for path in (ROOT / "sluicegate" / "cli").glob("*.py")}
    named = set(re.findall(r"`sluicegate ([a-z]+)", text))
    assert named <= commands
    for command, options in re.findall(r"`sluicegate ([a-z]+)([^`]*)`", text):
        source = (ROOT / "sluicegate" / "cli" / f"{command}.py").read_text(encoding="utf-8")
        for option in re.findall(r"--([a-z-]+)", options):
            assert f"{option.replace('-', '_')}: " in source, (command, option)
    assert {"status", "limits", "parked", "dlq", "replay", "doctor", "resume"} <= named


def test_the_dashboard_asks_for_what_exists() -> None:
    """Every query and every legend names metrics and labels that processes export."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = list(queries(dashboard))
    assert len(asked) > 20
    for expression, legend in asked:
        assert list(faults(expression, legend=legend)) == [], expression
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}, panel["title"]


def test_the_dashboards_queries_are_prometheus_s_language(tmp_path: Path) -> None:
    """promtool reads every one of them; the dashboard's variables stand for what they select."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    rules = [
        {"record": f"panel:query{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, (expression, _) in enumerate(queries(dashboard))
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")

    done = promtool("check", "rules", str(file))

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_panels_do_not_overlap() -> None:
    """Grafana would push them about and nobody would find what stood where."""
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_the_documented_metrics_are_the_exported_ones() -> None:
    """`python -m sluicegate.telemetry.catalogue > docs/metrics.md` writes nothing new."""
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == markdown()


@pytest.mark.parametrize(
    ("expression", "legend", "fault"),
    [
        ("sum(sluicegate_no_such)", "", "no metric sluicegate_no_such"),
        ('sluicegate_redis_up{stream="x"}', "", "sluicegate_redis_up has no stream"),
        ("sum by (scope) (sluicegate_lag_records)", "", "nothing has scope"),
        ("sluicegate_lag_records", "{{tier}}", "the legend's tier is nowhere"),
        ("sluicegate_llm_calls", "", "no metric sluicegate_llm_calls"),
    ],
)
def test_the_check_notices_what_is_wrong(expression: str, legend: str, fault: str) -> None:
    """A check that lets a wrong query pass would be no check."""
    assert fault in list(faults(expression, legend=legend))

"""How many workers KEDA would ask for: the query computed by Prometheus, the formula by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.deploy.checks_scaling import workers_wanted
from tests.deploy.manifests import of_kind
from tests.deploy.rendering import Combination, Object, render

_TIMEOUT_S = 60.0
_POD = 'namespace="sluicegate",scope="main"'
_REQUESTS = f'sluicegate_limiter_in_force_per_minute{{{_POD},dimension="requests-per-minute",pod="%s"}}'
_TOKENS = f'sluicegate_limiter_in_force_per_minute{{{_POD},dimension="tokens-per-minute",pod="%s"}}'
# 60 completed calls a minute of 2 s and 1,000 tokens each, for half an hour.
_CALLS: Mapping[str, str] = {
    f'sluicegate_llm_calls_total{{{_POD},outcome="completed",pod="a"}}': "0+60x30",
    f'sluicegate_llm_calls_total{{{_POD},outcome="throttled",pod="a"}}': "0+600x30",
    f'sluicegate_llm_call_seconds_sum{{{_POD},pod="a"}}': "0+120x30",
    f'sluicegate_llm_call_seconds_count{{{_POD},pod="a"}}': "0+60x30",
    f'sluicegate_llm_tokens_total{{{_POD},direction="input",pod="a"}}': "0+50000x30",
    f'sluicegate_llm_tokens_total{{{_POD},direction="output",pod="a"}}': "0+10000x30",
}
# Of another deployment in the same Prometheus: must count for nothing.
_STRANGER = {
    _REQUESTS.replace('namespace="sluicegate"', 'namespace="other"') % "z": "1x30",
    'sluicegate_llm_call_seconds_sum{namespace="other",scope="main"}': "0+9000x30",
    'sluicegate_llm_call_seconds_count{namespace="other",scope="main"}': "0+60x30",
}
# Series, and the calls in flight that use the limits in full.
_CASES: Mapping[str, tuple[Mapping[str, str], float]] = {
    "requests bind": (
        {_REQUESTS % "a": "3000x30", _TOKENS % "a": "9000000x30", **_CALLS},
        3000 / 60 * 2,
    ),
    "tokens bind": ({_REQUESTS % "a": "3000x30", _TOKENS % "a": "250000x30", **_CALLS}, 250 / 60 * 2),
    "only tokens": ({_TOKENS % "a": "600000x30", **_CALLS}, 600 / 60 * 2),
    "a worker that heard of a lower limit": (
        {_REQUESTS % "a": "3000x30", _REQUESTS % "b": "1500x30", **_CALLS},
        1500 / 60 * 2,
    ),
    "no call yet": ({_REQUESTS % "a": "600x30", _TOKENS % "a": "250000x30"}, 600 / 60 * 1),
    "no limit": (_CALLS, 100_000 * 2),
    "nothing runs": ({}, 100_000 * 1),
}


@pytest.fixture(scope="module")
def scaled() -> Object:
    """The ScaledObject of the documents' workers."""
    found = of_kind(render(Combination(overlay="prod", components=("keda",))), "ScaledObject")
    return next(thing for thing in found if thing["metadata"]["name"] == "documents-worker")


def test_the_query_gives_the_calls_in_flight_that_use_the_limits_in_full(
    scaled: Object, tmp_path: Path
) -> None:
    """Whichever limit binds, before the first call and without a limit, there is one right number."""
    promtool = shutil.which("promtool")
    if promtool is None:
        message = "promtool is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    query = scaled["spec"]["triggers"][2]["metadata"]["query"]
    cases = [
        {
            "interval": "1m",
            "name": name,
            "input_series": [
                {"series": key, "values": values} for key, values in {**series, **_STRANGER}.items()
            ],
            "promql_expr_test": [
                {"expr": query, "eval_time": "25m", "exp_samples": [{"labels": "{}", "value": calls}]}
            ],
        }
        for name, (series, calls) in _CASES.items()
    ]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump({"rule_files": [], "tests": cases}), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", "cases.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("lag_input", "lag_due", "calls", "workers"),
    [
        (0, 0, 100, 0),  # KEDA's minimum applies
        (1, 0, 100, 1),
        (1_000_000, 0, 100, 2),  # 100 calls at once have room in one worker: more of them add nothing
        (1_000_000, 0, 1_000, 5),
        (300, 300, 100_000, 3),
        (0, 2_400, 100_000, 12),
    ],
)
def test_the_formula_takes_the_smaller_of_backlog_and_quota(
    scaled: Object, lag_input: float, lag_due: float, calls: float, workers: float
) -> None:
    """A backlog that the quota cannot work off any faster starts no worker."""
    assert workers_wanted(scaled, lag_input=lag_input, lag_due=lag_due, calls=calls) == workers

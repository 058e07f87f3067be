"""The provider's decisions, without HTTP and on a clock of our own."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from sluicegate.local.provider.formats import Anthropic, ErrorText, Format, OpenAI
from sluicegate.local.provider.quota import Enforcement, Limits
from sluicegate.local.provider.simulator import (
    Admitted,
    Configuration,
    Crowded,
    Refused,
    Simulator,
    StruckEarly,
    Verdict,
)

_START_S = 1_800_000_000.0


class _World:
    """A simulator, its clock and its dice."""

    def __init__(
        self,
        *,
        requests: float = 600,
        tokens: float = 60_000,
        burst_s: float = 1.0,
        enforcement: Enforcement = Enforcement.BUCKET,
        window_s: float = 60,
        input_tokens: float | None = None,
        output_tokens: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        self.now_s = _START_S
        self.dice = 0.5
        limits = Limits(
            enforcement=enforcement,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            input_tokens_per_minute=input_tokens,
            output_tokens_per_minute=output_tokens,
            burst_s=burst_s,
            window_s=window_s,
        )
        self.simulator = Simulator(
            Configuration(limits=limits, concurrency=concurrency, latency_ms=100, jitter_ms=50),
            now_s=lambda: self.now_s,
            random=lambda: self.dice,
        )

    def call(
        self,
        format: Format | None = None,
        *,
        text: str = "x" * 400,
        max_tokens: int = 50,
        id: str = "e/reply/1",
    ) -> Verdict:
        format = format or OpenAI()
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
        sequence, verdict = self.simulator.receive(format, format.read(body), id)
        if isinstance(verdict, Admitted):
            self.simulator.answered(sequence, format, verdict.answer)
        self.simulator.finish(sequence, status=200, completion_tokens=0, whole=True)
        return verdict

    def begin(self, format: Format | None = None) -> tuple[int, Verdict]:
        """A call that stays in flight until it is finished."""
        format = format or OpenAI()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        return self.simulator.receive(format, format.read(body), "e/reply/1")

    def end(self, sequence: int) -> None:
        self.simulator.finish(sequence, status=200, completion_tokens=0, whole=True)

    def fault(self, **spec: Any) -> None:
        self.simulator.begin_fault(orjson.dumps(spec))

    def charged(self) -> list[int]:
        return [row["tokens_charged"] for row in self.simulator.log.rows()]


def test_openai_charges_the_larger_of_bound_and_prompt() -> None:
    """max(max_tokens, ceil(prompt bytes / 4)), whatever is answered."""
    world = _World()
    world.call(text="x" * 401, max_tokens=50)
    world.call(text="x" * 40, max_tokens=50)
    assert world.charged() == [101, 50]


def test_anthropic_charges_the_prompt_and_what_was_really_given() -> None:
    """max_tokens is no reservation there."""
    world = _World()
    verdict = world.call(Anthropic(), text="x" * 400, max_tokens=3000)
    assert isinstance(verdict, Admitted)
    assert verdict.answer.tokens < 100
    assert world.charged() == [100 + verdict.answer.tokens]


def test_a_refused_call_is_told_to_wait_and_charged_nothing() -> None:
    """The eleventh of a burst of ten waits a tenth of a second at ten a second."""
    world = _World()
    verdicts = [world.call() for _ in range(11)]
    assert all(isinstance(verdict, Admitted) for verdict in verdicts[:10])
    assert isinstance(verdicts[10], Refused)
    assert verdicts[10].wait_s == pytest.approx(0.1)
    assert world.charged() == [100] * 10 + [0]
    assert world.simulator.stats()["counts"]["refused"] == 1


def test_latency_is_the_base_and_its_jitter() -> None:
    """100 ms and half of 50."""
    verdict = _World().call()
    assert isinstance(verdict, Admitted)
    assert verdict.latency_s == pytest.approx(0.125)


def test_a_cut_refuses_everything_until_it_ends() -> None:
    """Retry-After counts down to the end, the bucket fills meanwhile, and the history shows it."""
    world = _World()
    world.fault(kind="cut", for_s=10, retry_after_s=9)
    told = []
    for at in (0, 5, 9.5, 10):
        world.now_s = _START_S + at
        told.append(world.call())
    assert told[:3] == [Refused(wait_s=9), Refused(wait_s=5), Refused(wait_s=0.5)]
    assert isinstance(told[3], Admitted)
    stats = world.simulator.stats()
    assert [(period["cut"], period["to"]) for period in stats["timeline"]] == [
        (True, _START_S + 10),
        (False, None),
    ]
    assert (stats["faults"][0]["struck"], stats["faults"][0]["active"]) == (3, False)
    assert [row["fault"] for row in world.simulator.log.rows()] == ["cut", "cut", "cut", None]


def test_clearing_ends_faults_and_the_cut() -> None:
    """One request puts the provider right again."""
    world = _World()
    world.fault(kind="cut", for_s=10)
    world.fault(kind="status", status=500, for_s=10)
    world.simulator.clear_faults()
    assert isinstance(world.call(), Admitted)
    assert [fault["active"] for fault in world.simulator.stats()["faults"]] == [False, False]


def test_an_injected_status_strikes_as_many_calls_as_were_asked_for() -> None:
    """Two, then it is over; they charge nothing."""
    world = _World()
    world.fault(kind="status", status=500, calls=2)
    verdicts = [world.call() for _ in range(3)]
    assert [type(verdict) for verdict in verdicts] == [StruckEarly, StruckEarly, Admitted]
    assert world.charged() == [0, 0, 100]


def test_a_fault_for_a_time_ends_with_it() -> None:
    """Calls before the end are struck, those after it are not."""
    world = _World()
    world.fault(kind="hang", for_s=2)
    first = world.call()
    world.now_s += 2
    second = world.call()
    assert isinstance(first, Admitted)
    assert first.fault is not None
    assert isinstance(second, Admitted)
    assert second.fault is None


def test_a_fault_may_strike_some_calls_only() -> None:
    """By a part of the request's id, and by a share."""
    world = _World()
    world.fault(kind="empty", match="chunk-2", for_s=60)
    world.fault(kind="html", share=0.3, for_s=60)
    faults = []
    for id, dice in (("e/chunk-1/1", 0.5), ("e/chunk-2/1", 0.5), ("e/chunk-1/2", 0.2)):
        world.dice = dice
        verdict = world.call(id=id)
        assert isinstance(verdict, Admitted)
        faults.append(verdict.fault.kind if verdict.fault else None)
    assert faults == [None, "empty", "html"]


def test_a_refused_call_uses_up_no_fault() -> None:
    """What spoils an answer waits for one."""
    world = _World(requests=60, burst_s=1)
    world.call()
    world.fault(kind="reset")
    assert isinstance(world.call(), Refused)
    assert world.simulator.stats()["faults"][0]["struck"] == 0


def test_other_limits_hold_at_once_and_are_remembered() -> None:
    """A quota that is cut in half in the middle of a run is judged by its parts."""
    world = _World()
    world.now_s += 5
    world.fault(kind="limits", requests_per_minute=60)
    world.call()
    verdict = world.call()
    assert isinstance(verdict, Refused)
    assert verdict.wait_s == pytest.approx(1.0)
    stats = world.simulator.stats()
    assert [period["requests_per_minute"] for period in stats["timeline"]] == [600, 60]
    assert stats["configuration"]["requests_per_minute"] == 60
    assert stats["configuration"]["tokens_per_minute"] == 60_000


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"no json", "fault"),
        (b'{"kind": "earthquake"}', "fault"),
        (b'{"kind": "status"}', "status"),
        (b'{"kind": "status", "status": 200}', "status"),
        (b'{"kind": "cut", "for_s": -1}', "for_s"),
        (b'{"kind": "hang", "colour": "red"}', "colour"),
        (b'{"kind": "limits", "requests_per_minute": 0}', "requests_per_minute"),
    ],
)
def test_a_fault_that_is_not_understood_says_where(body: bytes, where: str) -> None:
    """And changes nothing."""
    world = _World()
    with pytest.raises(ValueError, match=where):
        world.simulator.begin_fault(body)
    assert world.simulator.stats()["faults"] == []


def test_stats_have_what_the_ideal_needs() -> None:
    """Admitted calls, from the first admission to the last answer, against what the quota needed."""
    world = _World()
    assert world.simulator.stats()["ideal"] is None
    calls = 0
    for tick in range(21):
        world.now_s = _START_S + tick / 10
        while isinstance(world.call(), Admitted):
            calls += 1
    ideal = world.simulator.stats()["ideal"]
    assert (ideal["requests"], ideal["tokens"]) == (calls, 3000)
    assert ideal["makespan_s"] == pytest.approx(2.0)
    assert ideal["ideal_s"] == pytest.approx(2.1)


def test_a_call_that_fits_no_bucket_is_told_so() -> None:
    """More tokens than a minute has: no wait helps."""
    assert _World(tokens=1000).call(max_tokens=1001) == Refused(wait_s=math.inf)


def test_openai_headers_tell_the_minutes_rest_and_the_time_to_full() -> None:
    """Used = rate x reset, as a client that learns from headers takes them."""
    world = _World()
    for _ in range(5):
        world.call()
    headers = OpenAI().quota_headers(world.simulator.quota, world.now_s)
    assert headers["x-ratelimit-limit-requests"] == "600"
    assert headers["x-ratelimit-remaining-requests"] == "595"
    assert headers["x-ratelimit-reset-requests"] == "500ms"
    assert headers["x-ratelimit-remaining-tokens"] == "59500"
    assert OpenAI().retry_headers(1.25) == {"retry-after": "2", "retry-after-ms": "1250"}


def test_anthropic_headers_give_the_reset_as_a_moment() -> None:
    """RFC 3339 in whole seconds, never before the bucket is full."""
    world = _World()
    world.call(Anthropic())
    headers = Anthropic().quota_headers(world.simulator.quota, world.now_s)
    assert headers["anthropic-ratelimit-requests-limit"] == "600"
    assert headers["anthropic-ratelimit-requests-remaining"] == "599"
    assert headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:00:01Z"
    assert Anthropic().retry_headers(0.02) == {"retry-after": "1"}


@pytest.mark.parametrize(
    ("enforcement", "reset", "wait_s"),
    # Calls at 10 and 25 s past the minute: the minute ends at 60, the log is empty at 85.
    [(Enforcement.FIXED, "30s", 30), (Enforcement.LOG, "55s", 40)],
)
def test_headers_of_windows_tell_their_rest_and_when_nothing_is_used(
    enforcement: Enforcement, reset: str, wait_s: float
) -> None:
    """At 30 s: one of three is left, then none, and the wait is for the first to go."""
    world = _World(requests=3, tokens=1000, enforcement=enforcement)
    for at in (10, 25):
        world.now_s = _START_S + at
        world.call()
    world.now_s = _START_S + 30
    headers = OpenAI().quota_headers(world.simulator.quota, world.now_s)
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == reset
    assert headers["x-ratelimit-remaining-tokens"] == "800"
    assert headers["x-ratelimit-reset-tokens"] == reset
    world.call()
    assert world.call() == Refused(wait_s=wait_s)
    headers = Anthropic().quota_headers(world.simulator.quota, world.now_s)
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"


def test_headers_of_a_short_window_tell_what_is_left_of_it() -> None:
    """The limit stays that of a minute, since that is what it is called."""
    world = _World(requests=600, tokens=60_000, enforcement=Enforcement.FIXED, window_s=6)
    world.now_s = _START_S + 2
    world.call()
    headers = Anthropic().quota_headers(world.simulator.quota, world.now_s)
    assert headers["anthropic-ratelimit-requests-limit"] == "600"
    assert headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert headers["anthropic-ratelimit-tokens-remaining"] == "5900"
    assert headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:00:06Z"


@pytest.mark.parametrize("enforcement", [Enforcement.FIXED, Enforcement.LOG])
def test_levels_of_windows_are_what_may_go_at_once(enforcement: Enforcement) -> None:
    """Of the window's share, with the model and its window told beside them."""
    world = _World(requests=600, tokens=60_000, enforcement=enforcement, window_s=6)
    world.call()
    stats = world.simulator.stats()
    assert stats["strangers"] == {"requests": 0, "tokens": 0}
    assert stats["levels"] == {
        "requests": {"available": 59, "capacity": 60},
        "tokens": {"available": 5900, "capacity": 6000},
    }
    for shown in (stats["configuration"], stats["timeline"][0]):
        assert (shown["enforcement"], shown["window_s"]) == (enforcement.value, 6)


def test_limits_that_leave_a_window_no_call_are_not_understood() -> None:
    """The old ones go on."""
    world = _World(enforcement=Enforcement.LOG, window_s=1)
    with pytest.raises(ValueError, match="at least one request"):
        world.fault(kind="limits", requests_per_minute=30)
    assert len(world.simulator.stats()["timeline"]) == 1
    assert isinstance(world.call(), Admitted)


@pytest.mark.parametrize("format", [OpenAI(), Anthropic()])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "m", "max_tokens": 1},
        {"model": "m", "max_tokens": 1, "messages": []},
        {"model": "m", "max_tokens": 1, "messages": ["hi"]},
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": 7}]},
        {"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "hi"}]},
        {"model": "", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]},
    ],
)
def test_a_body_of_another_shape_is_refused(format: Format, body: dict[str, Any]) -> None:
    """As a real provider answers 400."""
    with pytest.raises(ValueError, match=r"\w+: "):
        format.read(body)


@pytest.mark.parametrize("format", [OpenAI(), Anthropic()])
def test_a_call_that_asks_for_json_gets_an_object(format: Format) -> None:
    """By the system text in both formats."""
    messages = [{"role": "user", "content": "Some text."}]
    body = {"model": "m", "max_tokens": 90, "messages": messages, "system": "Answer with a JSON object."}
    if format.name == "openai":
        body["messages"] = [{"role": "system", "content": body.pop("system")}, *messages]
    assert format.read(body).wants_json


def test_an_error_says_what_was_asked_for() -> None:
    """Each part may be set, the others are the provider's usual words."""
    assert OpenAI().error(429, ErrorText(code="slow_down"))["error"]["code"] == "slow_down"
    assert Anthropic().error(529, ErrorText())["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_a_prompt_that_input_has_no_room_for_is_refused(enforcement: Enforcement) -> None:
    """Though tokens in all, and output, have plenty; another format does not know that limit."""
    world = _World(tokens=1e6, input_tokens=60_000, enforcement=enforcement, window_s=1)
    while isinstance(world.call(Anthropic(), text="x" * 400), Admitted):
        pass
    verdict = world.call(Anthropic(), text="x" * 400)
    assert isinstance(verdict, Refused)
    assert 0 < verdict.wait_s <= 1
    world = _World(tokens=1e6, input_tokens=1000, output_tokens=1000)
    assert world.call(Anthropic(), text="x" * 4004) == Refused(wait_s=math.inf)
    assert isinstance(world.call(OpenAI(), text="x" * 4004), Admitted)


@pytest.mark.parametrize("enforcement", list(Enforcement))
def test_output_in_debt_refuses_calls_until_it_is_paid(enforcement: Enforcement) -> None:
    """What an answer took is charged when it is given; max_tokens reserves nothing of it."""
    world = _World(requests=6000, tokens=1e6, output_tokens=300, enforcement=enforcement, window_s=6)
    verdicts = [world.call(Anthropic(), max_tokens=3000) for _ in range(20)]
    refused = next(verdict for verdict in verdicts if isinstance(verdict, Refused))
    assert 0 < refused.wait_s < math.inf
    assert isinstance(world.call(OpenAI()), Admitted)
    world.now_s += refused.wait_s + 1e-6
    assert isinstance(world.call(Anthropic()), Admitted)


def test_limited_input_and_output_have_headers_and_levels_of_their_own() -> None:
    """Of Anthropic's answers alone, and only while they are limited."""
    world = _World(input_tokens=30_000, output_tokens=12_000)
    verdict = world.call(Anthropic(), text="x" * 400)
    assert isinstance(verdict, Admitted)
    headers = world.simulator.quota_headers(Anthropic())
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "30000"
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == "29900"
    assert headers["anthropic-ratelimit-output-tokens-limit"] == "12000"
    assert headers["anthropic-ratelimit-output-tokens-remaining"] == str(12_000 - verdict.answer.tokens)
    assert headers["anthropic-ratelimit-output-tokens-reset"] == "2027-01-15T08:00:01Z"
    assert len(headers) == 12
    assert len(world.simulator.quota_headers(OpenAI())) == 6
    assert len(_World().simulator.quota_headers(Anthropic())) == 6
    stats = world.simulator.stats()
    assert list(stats["levels"]) == ["requests", "tokens", "input_tokens", "output_tokens"]
    assert stats["configuration"]["input_tokens_per_minute"] == 30_000
    assert _World().simulator.stats()["configuration"]["input_tokens_per_minute"] is None


def test_input_and_output_are_limited_from_now_on_by_a_fault() -> None:
    """What had no limit gets one, and keeps what it used once it has."""
    world = _World(tokens=1e6)
    world.now_s += 1
    world.fault(kind="limits", input_tokens_per_minute=6000)
    for _ in range(40):
        assert isinstance(world.call(Anthropic(), text="x" * 400), Admitted)
        world.now_s += 0.1
    world.fault(kind="limits", input_tokens_per_minute=12_000, output_tokens_per_minute=600)
    stats = world.simulator.stats()
    assert [period["input_tokens_per_minute"] for period in stats["timeline"]] == [None, 6000, 12_000]
    assert [period["output_tokens_per_minute"] for period in stats["timeline"]] == [None, None, 600]
    # 40 prompts of 100 less 4 s of 100 a second.
    assert stats["levels"]["input_tokens"] == {
        "available": pytest.approx(4096 - 3600),
        "capacity": 4096,
    }


def test_input_tokens_bind_the_ideal_when_they_need_longest() -> None:
    """Fifty prompts of 100 tokens at 100 a second, after what may come at once."""
    world = _World(requests=6000, tokens=1e6, input_tokens=6000)
    calls = 0
    while calls < 50:
        calls += isinstance(world.call(Anthropic(), text="x" * 400), Admitted)
        world.now_s += 0.01
    ideal = world.simulator.stats()["ideal"]
    assert ideal["ideal_s"] == pytest.approx((5000 - 4096) / 100 + 0.1)


def test_more_calls_at_once_than_the_account_may_make_are_refused_in_each_format() -> None:
    """Until one ends; they charge nothing, and the most that ever was in flight is told."""
    world = _World(concurrency=2)
    first, _ = world.begin()
    world.begin()
    assert [world.begin(format)[1] for format in (OpenAI(), Anthropic())] == [
        Crowded(status=429),
        Crowded(status=529),
    ]
    for sequence in (2, 3):
        world.end(sequence)
    world.end(first)
    assert isinstance(world.begin()[1], Admitted)
    assert world.charged() == [5, 5, 0, 0, 5]
    stats = world.simulator.stats()
    assert (stats["in_flight"], stats["most_in_flight"], stats["counts"]["refused"]) == (2, 4, 2)
    assert stats["configuration"]["concurrency"] == 2


def test_a_shortage_of_capacity_refuses_above_its_bound_for_its_time() -> None:
    """Without a limit of the account; the calls are struck by it, the newest one holds."""
    world = _World()
    world.fault(kind="capacity", concurrency=5, for_s=60)
    world.fault(kind="capacity", concurrency=1, for_s=10)
    world.begin()
    assert [world.begin(format)[1] for format in (OpenAI(), Anthropic())] == [
        Crowded(status=503),
        Crowded(status=529),
    ]
    assert [row["fault"] for row in world.simulator.log.rows()] == [None, "capacity", "capacity"]
    assert [(fault["struck"], fault["active"]) for fault in world.simulator.stats()["faults"]] == [
        (0, False),
        (2, True),
    ]
    world.now_s += 10
    assert isinstance(world.begin()[1], Admitted)


def test_clearing_ends_a_shortage() -> None:
    """Even one of no calls at all, that has no end."""
    world = _World()
    world.fault(kind="capacity", concurrency=0)
    assert isinstance(world.begin()[1], Crowded)
    world.simulator.clear_faults()
    assert isinstance(world.begin()[1], Admitted)


def test_an_error_of_the_whole_account_is_what_the_vendor_sends() -> None:
    """Spent credit has a type of its own under the status of a rate limit; a bad key has a code."""
    assert OpenAI().error(429, ErrorText(code="insufficient_quota"))["error"] == {
        "message": "The simulator answered 429.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert OpenAI().error(401, ErrorText())["error"]["code"] == "invalid_api_key"
    assert Anthropic().error(401, ErrorText())["error"]["type"] == "authentication_error"

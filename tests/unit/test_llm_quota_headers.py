"""What the headers of an answer say of the account's limits, and that nothing in them can do harm."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluicegate.llm.outcomes import QuotaKind, QuotaReport
from sluicegate.llm.quota_headers import LARGEST_QUOTA, LONGEST_RESET_S, QuotaFamily, read_quotas

_NOW_S = 1_732_448_000.0  # 2024-11-24T11:33:20Z
_DATE = "Sun, 24 Nov 2024 11:33:20 GMT"


def _openai(**fields: str) -> QuotaReport | None:
    headers = {f"x-ratelimit-{field}-requests": text for field, text in fields.items()}
    return _only(read_quotas(QuotaFamily.OPENAI, headers, _NOW_S))


def _anthropic(now_s: float = _NOW_S, date: str | None = None, **fields: str) -> QuotaReport | None:
    headers = {f"anthropic-ratelimit-input-tokens-{field}": text for field, text in fields.items()}
    if date is not None:
        headers["date"] = date
    return _only(read_quotas(QuotaFamily.ANTHROPIC, headers, now_s))


def _only(reports: tuple[QuotaReport, ...]) -> QuotaReport | None:
    assert len(reports) <= 1
    return reports[0] if reports else None


def test_openais_six_headers_are_two_reports() -> None:
    """The example of OpenAI's own guide, in the capitals that HTTP allows."""
    headers = httpx.Headers(
        {
            "X-RateLimit-Limit-Requests": "60",
            "X-RateLimit-Limit-Tokens": "150000",
            "X-RateLimit-Remaining-Requests": "59",
            "X-RateLimit-Remaining-Tokens": "149984",
            "X-RateLimit-Reset-Requests": "1s",
            "X-RateLimit-Reset-Tokens": "6m0s",
        }
    )
    assert read_quotas(QuotaFamily.OPENAI, headers, _NOW_S) == (
        QuotaReport(kind=QuotaKind.REQUESTS, limit=60, remaining=59, reset_s=1, resolution_s=1),
        QuotaReport(kind=QuotaKind.TOKENS, limit=150_000, remaining=149_984, reset_s=360, resolution_s=1),
    )


def test_anthropics_twelve_headers_are_four_reports() -> None:
    """All four kinds, each reset measured from the answer's own `Date`."""
    headers = {"date": _DATE}
    for number, kind in enumerate(QuotaKind, start=1):
        headers[f"anthropic-ratelimit-{kind}-limit"] = str(1000 * number)
        headers[f"anthropic-ratelimit-{kind}-remaining"] = str(1000 * number - 1)
        headers[f"anthropic-ratelimit-{kind}-reset"] = f"2024-11-24T11:33:2{number}Z"
    assert read_quotas(QuotaFamily.ANTHROPIC, headers, 0.0) == tuple(
        QuotaReport(
            kind=kind,
            limit=1000 * number,
            remaining=1000 * number - 1,
            reset_s=number,
            resolution_s=1,
        )
        for number, kind in enumerate(QuotaKind, start=1)
    )


@pytest.mark.parametrize(
    ("text", "reset_s", "resolution_s"),
    [
        ("0s", 0, 1),
        ("20ms", 0.02, 0.001),
        ("120ms", 0.12, 0.001),
        ("1.25ms", 0.00125, 0.00001),
        ("1.5s", 1.5, 0.1),
        ("59.982s", 59.982, 0.001),
        ("6m0s", 360, 1),
        ("7m12s", 432, 1),
        ("2m59.56s", 179.56, 0.01),
        ("1h2m3s", 3723, 1),
        ("23h59m", 86_340, 60),
        ("2h", 7200, 3600),
        ("10", 10, 1),
        ("0.5", 0.5, 0.1),
        ("604800", 604_800, 1),
        (" 1s\t", 1, 1),
    ],
)
def test_a_span_of_time_is_right_to_the_unit_of_its_last_part(
    text: str, reset_s: float, resolution_s: float
) -> None:
    """As Go writes it, or in plain seconds as some servers do."""
    report = _openai(limit="60", reset=text)
    assert report is not None
    assert report.reset_s == pytest.approx(reset_s)
    assert report.resolution_s == pytest.approx(resolution_s)


@pytest.mark.parametrize(
    ("text", "reset_s", "resolution_s"),
    [
        ("2024-11-24T11:33:20Z", 0, 1),
        ("2024-11-24T11:34:20Z", 60, 1),
        ("2024-11-24T11:33:21.5Z", 1.5, 0.1),
        ("2024-11-24T11:33:21.250000Z", 1.25, 0.000001),
        ("2024-11-24T11:33:21.123456789Z", 1.123456, 1e-9),
        ("2024-11-24T12:33:25+01:00", 5, 1),
    ],
)
def test_a_moment_is_right_to_the_digits_of_its_seconds(
    text: str, reset_s: float, resolution_s: float
) -> None:
    """RFC 3339 with or without a fraction, in any zone."""
    report = _anthropic(limit="60", reset=text)
    assert report is not None
    assert report.reset_s == pytest.approx(reset_s, abs=1e-5)
    assert report.resolution_s == pytest.approx(resolution_s)


def test_a_moment_is_measured_against_the_answers_own_date() -> None:
    """A clock of ours that is wrong by years changes nothing; without a usable `Date` it must do."""
    for now_s, date in ((0.0, _DATE), (_NOW_S, None), (_NOW_S, "yesterday")):
        report = _anthropic(now_s, date, reset="2024-11-24T11:33:30Z")
        assert report is not None
        assert report.reset_s == 10


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+1", "-1s", "nan", "inf", "1e999", "1e3s", "1_0", "٣s", "٣", "１０", "s", "ms", "soon"),
        *("1732448000", "604801", "169h", "700000s", "99999999999999999999s", "1s1s", "1s2m", "6m30"),
        *("1 s", "0x1fs", "1.s", ".5s", "1.5m", "1us", "1s, 2s", "2024-11-24T11:33:30Z"),
    ],
)
def test_a_span_that_makes_no_sense_is_none(text: str) -> None:
    """Moments, signs, other scripts, more than a week: the limit beside it still counts."""
    assert _openai(limit="60", remaining="5", reset=text) == QuotaReport(
        kind=QuotaKind.REQUESTS, limit=60, remaining=5
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "10", "10s", "2024-11-24", "2024-11-24 11:33:30Z", "2024-11-24T11:33:30", "20241124T113330Z"),
        *(
            "2024-13-24T11:33:30Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "٢٠٢٤-11-24T11:33:30Z",
        ),
        *(
            "2024-11-24T11:33:19Z",
            "2024-12-02T11:33:20Z",
            "2024-11-24T11:33:61Z",
            "2024-11-24T11:33:30+99:99",
        ),
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_a_moment_that_makes_no_sense_is_none(text: str) -> None:
    """The past, more than a week ahead, no calendar's day, no zone."""
    assert _anthropic(limit="60", remaining="5", reset=text) == QuotaReport(
        kind=QuotaKind.INPUT_TOKENS, limit=60, remaining=5
    )


@pytest.mark.parametrize(
    "text", ["0", "-1", "+5", "1.5", "nan", "1e999", "1e3", "٣", "²", "1000000000001", "9" * 5000, "5, 5", ""]
)
def test_a_limit_that_makes_no_sense_is_none(text: str) -> None:
    """Azure says -1 for what it does not know; the reset still counts."""
    assert _openai(limit=text, reset="1s") == QuotaReport(kind=QuotaKind.REQUESTS, reset_s=1, resolution_s=1)


@pytest.mark.parametrize(
    ("text", "remaining"), [("0", 0), ("60", 60), ("61", None), ("-1", None), ("٣", None)]
)
def test_no_more_is_left_than_the_limit(text: str, remaining: float | None) -> None:
    """What is above it was not counted by this limit."""
    assert _openai(limit="60", remaining=text) == QuotaReport(
        kind=QuotaKind.REQUESTS, limit=60, remaining=remaining
    )


def test_what_is_left_says_nothing_by_itself() -> None:
    """Without a limit and a reset there is no report."""
    assert _openai(remaining="5") is None
    assert _openai(limit="0", remaining="5", reset="-1s") is None


def test_the_wire_format_decides_whose_names_are_read() -> None:
    """A gateway that passes on another vendor's headers is not believed."""
    openai = {"x-ratelimit-limit-requests": "60", "x-ratelimit-limit-input-tokens": "60"}
    anthropic = {"anthropic-ratelimit-requests-limit": "60"}
    assert len(read_quotas(QuotaFamily.OPENAI, openai | anthropic, _NOW_S)) == 1
    assert read_quotas(QuotaFamily.OPENAI, anthropic, _NOW_S) == ()
    assert read_quotas(QuotaFamily.ANTHROPIC, openai, _NOW_S) == ()


def test_a_header_that_comes_twice_says_nothing() -> None:
    """HTTP joins them with a comma, and that is no number."""
    headers = httpx.Headers([("x-ratelimit-limit-requests", "60"), ("x-ratelimit-limit-requests", "90")])
    assert read_quotas(QuotaFamily.OPENAI, headers, _NOW_S) == ()


_NAMES = [
    *(f"x-ratelimit-{field}-{kind}" for field in ("limit", "remaining", "reset") for kind in QuotaKind),
    *(
        f"anthropic-ratelimit-{kind}-{field}"
        for field in ("limit", "remaining", "reset")
        for kind in QuotaKind
    ),
    "date",
]
_TEXTS = (
    st.text(max_size=30)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.from_regex(r"(\d{1,9}h)?(\d{1,9}m)?\d{1,12}(\.\d{1,12})?(m?s)?", fullmatch=True)
    | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
    | st.sampled_from([_DATE, "2024-11-24T11:33:30Z", "9999-12-31T23:59:59-23:59", "1s", "60"])
)


@given(
    family=st.sampled_from(QuotaFamily),
    headers=st.dictionaries(st.sampled_from(_NAMES), _TEXTS),
    now_s=st.floats(0, 1e11),
)
@example(
    family=QuotaFamily.ANTHROPIC,
    headers={
        "date": "Mon, 01 Jan 0001 00:00:00 +2359",
        "anthropic-ratelimit-tokens-reset": "0001-01-01T00:00:00Z",
    },
    now_s=0.0,
)
def test_no_header_can_do_harm(family: QuotaFamily, headers: dict[str, str], now_s: float) -> None:
    """Whatever the text: no exception, each field None or in its range, and no report of nothing."""
    reports = read_quotas(family, headers, now_s)
    assert len({report.kind for report in reports}) == len(reports)
    for report in reports:
        assert report.limit is not None or report.reset_s is not None
        assert report.limit is None or 0 < report.limit <= LARGEST_QUOTA
        assert report.remaining is None or 0 <= report.remaining <= (report.limit or LARGEST_QUOTA)
        assert report.reset_s is None or 0 <= report.reset_s <= LONGEST_RESET_S
        assert (report.resolution_s == 0) == (report.reset_s is None)
        assert report.resolution_s <= 3600

"""Retry-After: what is honoured, what is ignored, what is bounded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.llm.retry_after import MAX_RETRY_AFTER_S, http_date, retry_after_s

_NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "999999999"}, MAX_RETRY_AFTER_S),
        ({"retry-after-ms": "999999999999"}, MAX_RETRY_AFTER_S),
    ],
)
def test_a_number_is_honoured_and_bounded(headers: dict[str, str], expected: float) -> None:
    """Milliseconds go before seconds, and nothing asks for more than seven days."""
    assert retry_after_s(headers, _NOW_S) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "nan",
        "inf",
        "1e3",
        "1_000",
        "0x10",
        "٣",
        "9" * 16,
        "tomorrow",
        "Mon, 99 Foo 2026",
        "+5",
        "5s",
    ],
)
def test_what_makes_no_sense_is_ignored(text: str) -> None:
    """Negative, absurd and unreadable values are as good as no header."""
    assert retry_after_s({"retry-after": text}, _NOW_S) is None
    assert retry_after_s({"retry-after-ms": text}, _NOW_S) is None


def test_a_date_is_measured_against_the_answers_own_date() -> None:
    """A provider whose clock is an hour off still gets the wait that it meant."""
    theirs = _NOW_S - 3600
    headers = {"retry-after": http_date(theirs + 30), "date": http_date(theirs)}
    assert retry_after_s(headers, _NOW_S) == 30.0


def test_a_date_without_another_is_measured_against_our_clock() -> None:
    """Without a Date header our own clock is all there is."""
    assert retry_after_s({"retry-after": http_date(_NOW_S + 45)}, _NOW_S) == 45.0


def test_a_date_in_the_past_is_ignored_and_a_far_one_bounded() -> None:
    """A wait is never negative and never longer than seven days."""
    assert retry_after_s({"retry-after": http_date(_NOW_S - 1)}, _NOW_S) is None
    assert retry_after_s({"retry-after": http_date(_NOW_S + 30 * 86400)}, _NOW_S) == MAX_RETRY_AFTER_S


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date"]),
        st.one_of(
            st.text(max_size=40), st.floats().map(str), st.integers().map(str), st.datetimes().map(str)
        ),
    )
)
def test_no_header_can_make_it_fail(headers: dict[str, str]) -> None:
    """Whatever a header holds, the answer is None or a wait within the bounds."""
    wait_s = retry_after_s(headers, _NOW_S)
    assert wait_s is None or (math.isfinite(wait_s) and 0 <= wait_s <= MAX_RETRY_AFTER_S)

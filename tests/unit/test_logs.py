"""Log lines: one shape for ours and the libraries', limited in rate, and never an event's content."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from sluicegate.errors import ConfigurationError
from sluicegate.telemetry.logs import LIBRARY_LOG, RateLimit, Windows, configure_logs

_SECRET = "the customer's own words"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _configured(level: str = "INFO") -> io.StringIO:
    stream = io.StringIO()
    configure_logs(level, terminal=False, stream=stream)
    return stream


def test_our_lines_are_json_with_event_level_time_and_values() -> None:
    """A log collector reads every line without a pattern."""
    stream = _configured()

    structlog.get_logger().bind(stream="support-chat").info("retry.scheduled", tier=2, path=Path("/x"))

    (line,) = _lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "retry.scheduled",
        "level": "info",
        "stream": "support-chat",
        "tier": 2,
        "path": "/x",
    }


def test_a_lazy_module_logger_made_before_the_set_up_follows_it() -> None:
    """Modules may take their logger at import: nothing is fixed before the process configures."""
    logger = structlog.get_logger()
    stream = _configured()

    logger.warning("a.b")

    assert _lines(stream)[0]["level"] == "warning"


def test_lines_below_the_level_are_not_written() -> None:
    """The level counts for our lines and for the libraries'."""
    stream = _configured("ERROR")

    structlog.get_logger().warning("a.b")
    logging.getLogger("aiokafka.conn").warning("gone")

    assert stream.getvalue() == ""


def test_library_lines_have_the_same_shape() -> None:
    """What Faust or aiokafka says is JSON too, under one event name, with its logger beside it."""
    stream = _configured()

    logging.getLogger("aiokafka.conn").error("Unable to connect to %s", "broker:9092")

    (line,) = _lines(stream)
    assert line["event"] == LIBRARY_LOG
    assert line["logger"] == "aiokafka.conn"
    assert line["message"] == "Unable to connect to broker:9092"
    assert line["level"] == "error"


def test_chatty_libraries_are_heard_from_warning_upwards() -> None:
    """aiokafka's and httpx's INFO lines, one a request, are noise."""
    stream = _configured()

    logging.getLogger("httpx").info("HTTP Request: POST ...")
    logging.getLogger("httpx").warning("heard")

    assert [line["message"] for line in _lines(stream)] == ["heard"]


def test_a_handler_that_a_library_brought_does_not_print_twice() -> None:
    """Only one writer is left, however a library set itself up before."""
    logging.getLogger("faust").addHandler(logging.StreamHandler(io.StringIO()))
    stream = _configured()

    logging.getLogger("faust").warning("once")

    assert len(_lines(stream)) == 1
    assert logging.getLogger("faust").handlers == []


def test_configuring_again_replaces_the_former_stream() -> None:
    """The last call counts and no line is written twice."""
    first = _configured()
    second = _configured()

    logging.getLogger("mode").warning("w")
    structlog.get_logger().info("a.b")

    assert first.getvalue() == ""
    assert len(_lines(second)) == 2


@pytest.mark.parametrize("ours", [True, False])
def test_an_exception_is_told_without_its_text(ours: bool) -> None:
    """A parser's exception quotes what it could not parse; only its type and places are written."""
    stream = _configured()

    def parse() -> None:
        local_prompt = _SECRET
        raise ValueError(local_prompt)

    try:
        try:
            parse()
        except ValueError as error:
            raise RuntimeError(_SECRET) from error
    except RuntimeError as error:
        if ours:
            structlog.get_logger().error("worker.crashed", exc_info=error, cause=error)
        else:
            logging.getLogger("faust").exception("Crashed reason=%r", error)

    text = stream.getvalue()
    assert _SECRET not in text
    exception = _lines(stream)[0]["exception"]
    assert "RuntimeError" in exception
    assert "ValueError" in exception
    assert "in parse" in exception


def test_an_exception_on_a_terminal_is_told_without_its_text_and_variables() -> None:
    """The readable form leaks no more than the JSON."""
    stream = io.StringIO()
    configure_logs("INFO", terminal=True, stream=stream)

    try:
        raise ValueError(_SECRET)
    except ValueError:
        structlog.get_logger().exception("worker.crashed")
        logging.getLogger("faust").exception("crash")

    assert _SECRET not in stream.getvalue()
    assert "worker.crashed" in stream.getvalue()
    assert stream.getvalue().count("ValueError") == 2


def test_an_exception_that_is_the_line_itself_is_told_without_its_text() -> None:
    """Some libraries log the exception object where a sentence belongs."""
    stream = _configured()

    logging.getLogger("faust").error(ValueError(_SECRET))

    assert _lines(stream)[0]["message"] == "ValueError"


def test_texts_that_are_about_us_or_the_network_are_written() -> None:
    """An operator has to read which setting or address is wrong."""
    stream = _configured()

    structlog.get_logger().error("a.b", error=ConfigurationError("set [redis] url"))
    logging.getLogger("aiokafka").error("failed: %s", ConnectionRefusedError(111, "Connection refused"))

    ours, library = _lines(stream)
    assert ours["error"] == "ConfigurationError: set [redis] url"
    assert "Connection refused" in library["message"]


def test_a_value_that_is_no_json_is_named_by_its_type() -> None:
    """An object that slipped into a line shows what it is, never what it holds."""
    stream = _configured()

    structlog.get_logger().info("a.b", thing=io.BytesIO(_SECRET.encode()), text=_SECRET.encode())

    assert _SECRET not in stream.getvalue()
    assert _lines(stream)[0]["thing"] == "BytesIO"


def test_exceptions_of_a_group_are_all_told() -> None:
    """A TaskGroup's failure names each member."""
    stream = _configured()

    structlog.get_logger().error("a.b", exc_info=ExceptionGroup("g", [KeyError("x"), TypeError("y")]))

    assert {"KeyError", "TypeError"} <= set(
        _lines(stream)[0]["exception"].replace("|", " ").replace(":", " ").split()
    )


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _record(name: str = "aiokafka", message: str = "lost %s") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "f.py", 1, message, ("x",), None)


def test_a_repeating_line_is_limited_and_counted() -> None:
    """Five lines of one template in 30 s; the first of the next window says how many were left out."""
    clock = _Clock()
    limit = RateLimit(Windows(burst=5, window_s=30, now_s=clock))

    passed = [limit.filter(_record()) for _ in range(12)]
    clock.now_s = 30
    after = _record()

    assert passed == [True] * 5 + [False] * 7
    assert limit.filter(after)
    assert getattr(after, "suppressed") == 7  # noqa: B009 - an attribute that LogRecord does not declare
    assert [limit.filter(_record()) for _ in range(5)] == [False] * 5
    clock.now_s = 120
    assert [limit.filter(_record()) for _ in range(7)] == [True] * 5 + [False] * 2


def test_each_logger_and_template_has_a_limit_of_its_own() -> None:
    """A flood of one line hides no other."""
    limit = RateLimit(Windows(burst=1, now_s=_Clock()))

    assert limit.filter(_record())
    assert limit.filter(_record(name="mode"))
    assert limit.filter(_record(message="other"))
    assert not limit.filter(_record())


def test_memory_is_bounded_however_many_templates_there_are() -> None:
    """A library that formats before it logs makes a template of every line."""
    limit = RateLimit(Windows(now_s=_Clock()))

    for number in range(5_000):
        assert limit.filter(_record(message=f"line {number}"))

    assert len(limit._windows._windows) <= 512


def test_the_limit_is_at_work_in_a_configured_process() -> None:
    """The flood of a broker that is away is five lines, not hundreds."""
    stream = _configured()

    for port in range(100):
        logging.getLogger("aiokafka.conn").error("Unable to connect to %s", port)

    assert len(_lines(stream)) == 5


def test_our_own_lines_are_limited_by_whom_they_concern() -> None:
    """A loop that says the same for as long as Kafka is away fills no disk, and hides nobody else's line."""
    stream = _configured()
    log = structlog.get_logger()

    for _ in range(600):
        log.warning("worker.kafka_unreachable", error="no broker")
        log.warning("limiter.blocked", scope="main", reason="rate-limited")
    log.warning("limiter.blocked", scope="backup", reason="rate-limited")

    found = [(line["event"], line.get("scope")) for line in _lines(stream)]
    assert found.count(("worker.kafka_unreachable", None)) == 5
    assert found.count(("limiter.blocked", "main")) == 5
    assert found[-1] == ("limiter.blocked", "backup")


def test_the_line_of_a_delivery_is_never_left_out() -> None:
    """One line each, however many end in a second: they are what an event's story is found by."""
    stream = _configured()

    for number in range(1_000):
        structlog.get_logger().info("delivery.done", id=str(number))

    assert [line["id"] for line in _lines(stream)] == [str(number) for number in range(1_000)]


def test_an_outage_of_ten_minutes_is_a_few_lines_a_minute() -> None:
    """The worst loop says the same once a second: 5 lines, then one in each half minute with the count."""
    clock = _Clock()
    windows = Windows(now_s=clock)
    passed = []
    for second in range(600):
        clock.now_s = second
        passed.append(windows.admit(("aiokafka", "gone")))

    told = [each for each in passed if each is not None]
    assert len(told) == 5 + 19
    assert sum(told) == 600 - len(told) - 29  # those of the last window are not told yet

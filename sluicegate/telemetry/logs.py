"""One set-up of logging for a process: lines of JSON on stderr, or readable ones on a terminal.

Our own lines come from structlog: a dotted event name and values as keys. What libraries say through
`logging` (Faust, aiokafka, mode, httpx) comes out in the same shape as `library.log`, limited in rate, since
a broker that is away makes them repeat one sentence hundreds of times a second.

Nothing of an event may reach a log (G7). Texts of exceptions are where it would: a parser quotes what it
could not parse. So an exception's text is written only where it is known to be about us, Kafka or the
network; of all others the type and the places in the code, never the values.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO

import orjson
import structlog

from sluicegate.errors import SluicegateError

LIBRARY_LOG = "library.log"
"""The event name of a line that a library wrote."""

_CHATTY_LOGGERS = (
    *("faust", "aiokafka", "mode", "httpx", "httpcore", "aiohttp", "asyncio", "kafka"),
    "streams.runtime",  # subclasses of theirs, which log as they do
)
_TRUSTED_TEXTS = (SluicegateError, OSError)
_TRUSTED_PACKAGES = frozenset({"aiokafka", "confluent_kafka", "cimpl"})
_MAX_TEMPLATES = 512

EventDict = MutableMapping[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logs(level: str, *, terminal: bool, stream: TextIO) -> None:
    """Send all log lines of this process to `stream`. `level` is a name of the standard library.

    Libraries are heard from WARNING upwards. May be called again: the last call counts.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    finish = _finishers(terminal=terminal)
    structlog.configure(
        processors=[structlog.processors.add_log_level, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LibraryFormatter(finish))
    handler.addFilter(_hide_texts)
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _CHATTY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)


class RateLimit(logging.Filter):
    """Lets `burst` lines of one logger and template pass in `window_s`, then counts.

    The first line of the next window says in `suppressed` how many were left out. A Filter because
    structlog's DropEvent does not stop records of the standard library.
    """

    def __init__(
        self, *, burst: int = 5, window_s: float = 30.0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._window_s = window_s
        self._now_s = now_s
        self._windows: dict[tuple[str, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line may pass; sets `suppressed` on one that follows others that did not."""
        now_s = self._now_s()
        key = (record.name, str(record.msg))
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = self._new_window(now_s)
        elif now_s >= window.ends_at_s:
            record.suppressed = window.suppressed
            window.ends_at_s, window.passed, window.suppressed = now_s + self._window_s, 0, 0
        if window.passed < self._burst:
            window.passed += 1
            return True
        window.suppressed += 1
        return False

    def _new_window(self, now_s: float) -> _Window:
        if len(self._windows) >= _MAX_TEMPLATES:  # a library that formats before it logs
            self._windows = {key: each for key, each in self._windows.items() if now_s < each.ends_at_s}
            if len(self._windows) >= _MAX_TEMPLATES:
                self._windows.clear()
        return _Window(ends_at_s=now_s + self._window_s)


@dataclass(slots=True, kw_only=True)
class _Window:
    ends_at_s: float
    passed: int = 0
    suppressed: int = 0


class _LibraryFormatter(logging.Formatter):
    """Gives a record of the standard library the shape of our own lines."""

    def __init__(self, finish: list[structlog.typing.Processor]) -> None:
        super().__init__()
        self._finish = finish

    def format(self, record: logging.LogRecord) -> str:
        line: Any = {
            "event": LIBRARY_LOG,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if suppressed := getattr(record, "suppressed", 0):
            line["suppressed"] = suppressed
        if record.exc_info:
            line["exc_info"] = record.exc_info
        for processor in self._finish:
            line = processor(None, record.levelname.lower(), line)
        return str(line)


def _finishers(*, terminal: bool) -> list[structlog.typing.Processor]:
    if terminal:
        # Exceptions are text by then; the renderer's own way would print local variables.
        return [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="timestamp"),
            _name_exceptions,
            structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback),
        ]
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _name_exceptions,
        structlog.processors.JSONRenderer(serializer=_to_json),
    ]


def _to_json(line: Any, **_: Any) -> str:
    return orjson.dumps(line, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: object) -> str:
    return str(value) if isinstance(value, PurePath) else type(value).__name__


def _name_exceptions(_: Any, __: str, line: EventDict) -> EventDict:
    """Replace exceptions by what may be written of them."""
    for key, value in line.items():
        if isinstance(value, BaseException) and key != "exc_info":
            line[key] = _text_of(value)
    error = _exception_of(line.pop("exc_info", None))
    if error is not None:
        line["exception"] = story_of(error)
    return line


def _exception_of(given: object) -> BaseException | None:
    match given:
        case BaseException():
            return given
        case (_, BaseException() as error, _):
            return error
        case None | False | (None, None, None):
            return None
        case _:
            return sys.exc_info()[1]


def story_of(error: BaseException) -> str:
    """Tell an exception and what it came from, for stderr: places in the code, and no values of others."""
    return "\n".join(_story_of(error))


def _story_of(error: BaseException) -> Iterator[str]:
    """Name the exception and what it came from, with places in the code and no values."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield _text_of(current)
        for frame in traceback.extract_tb(current.__traceback__):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        if isinstance(current, BaseExceptionGroup):
            for member in current.exceptions:
                yield from (f"  | {part}" for part in _story_of(member))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _text_of(error: BaseException) -> str:
    kind = type(error)
    is_trusted = isinstance(error, _TRUSTED_TEXTS) or kind.__module__.partition(".")[0] in _TRUSTED_PACKAGES
    return f"{kind.__name__}: {error}" if is_trusted and str(error) else kind.__name__


class _Named:
    """Stands in for an exception among the arguments of a library's line."""

    def __init__(self, error: BaseException) -> None:
        self._text = _text_of(error)

    def __repr__(self) -> str:
        return self._text


def _hide_texts(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(_Named(each) if isinstance(each, BaseException) else each for each in record.args)
    if isinstance(record.msg, BaseException):
        record.msg = _text_of(record.msg)
        record.args = ()
    return True

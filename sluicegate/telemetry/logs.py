"""One set-up of logging for a process: lines of JSON on stderr, or readable ones on a terminal.

Our own lines come from structlog: a dotted event name and values as keys. What libraries say through
`logging` (Faust, aiokafka, librdkafka, httpx) comes out in the same shape as `library.log`. A broker or a
Redis that is away makes both repeat themselves, so each kind of line is limited in rate; only the one line a
delivery never is.

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
    *("opentelemetry", "urllib3"),
    "streams.runtime",  # subclasses of theirs, which log as they do
)
_TRUSTED_TEXTS = (SluicegateError, OSError)
_TRUSTED_PACKAGES = frozenset({"aiokafka", "confluent_kafka", "cimpl"})
_MAX_KINDS = 512
_UNLIMITED = frozenset({"delivery.done"})
# With its event name they make a line's kind; their values come from closed sets or the configuration.
_KIND_FIELDS = ("stream", "scope", "topic", "reason")

EventDict = MutableMapping[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure_logs(level: str, *, terminal: bool, stream: TextIO) -> None:
    """Send all log lines of this process to `stream`. `level` is a name of the standard library.

    Libraries are heard from WARNING upwards. May be called again: the last call counts.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    finish = _finishers(terminal=terminal)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _OwnRateLimit(Windows()), *finish],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LibraryFormatter(finish))
    handler.addFilter(_hide_texts)
    handler.addFilter(RateLimit(Windows()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _CHATTY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(threshold, logging.WARNING))
    logging.captureWarnings(True)


class Windows:
    """Lets `burst` lines of a kind pass in `window_s`, then one in each window while the flood lasts."""

    def __init__(
        self, *, burst: int = 5, window_s: float = 30.0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._window_s = window_s
        self._now_s = now_s
        self._windows: dict[tuple[str, ...], _Window] = {}

    def admit(self, kind: tuple[str, ...]) -> int | None:
        """Return how many of the kind were left out before this one; None: this one is, too."""
        now_s = self._now_s()
        suppressed = 0
        window = self._windows.get(kind)
        if window is None:
            window = self._windows[kind] = self._new_window(now_s)
        elif now_s >= window.ends_at_s:
            suppressed = window.suppressed
            goes_on = suppressed and now_s < window.ends_at_s + self._window_s
            window.passed = self._burst - 1 if goes_on else 0
            window.ends_at_s, window.suppressed = now_s + self._window_s, 0
        if window.passed < self._burst:
            window.passed += 1
            return suppressed
        window.suppressed += 1
        return None

    def _new_window(self, now_s: float) -> _Window:
        if len(self._windows) >= _MAX_KINDS:  # a library that formats before it logs
            self._windows = {kind: each for kind, each in self._windows.items() if now_s < each.ends_at_s}
            if len(self._windows) >= _MAX_KINDS:
                self._windows.clear()
        return _Window(ends_at_s=now_s + self._window_s)


@dataclass(slots=True, kw_only=True)
class _Window:
    ends_at_s: float
    passed: int = 0
    suppressed: int = 0


class RateLimit(logging.Filter):
    """Limits what libraries say, by logger and template. A Filter: DropEvent does not stop their records."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self._windows = windows

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line may pass; sets `suppressed` on one that follows others that did not."""
        suppressed = self._windows.admit((record.name, str(record.msg)))
        if suppressed:
            record.suppressed = suppressed
        return suppressed is not None


class _OwnRateLimit:
    """Limits our own lines, by event name and whom it concerns."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def __call__(self, _: Any, __: str, line: EventDict) -> EventDict:
        if line["event"] in _UNLIMITED:
            return line
        kind = (str(line["event"]), *(str(line.get(name)) for name in _KIND_FIELDS))
        suppressed = self._windows.admit(kind)
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            line["suppressed"] = suppressed
        return line


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

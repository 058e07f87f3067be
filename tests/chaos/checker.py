"""The judge: reads a history and says which promises it breaks.

Shares no code with the product. Each check is a function of the history that yields findings; what a
promise leaves out (a crash may repeat what was on the wire, a flushed Redis has no order) is an excuse,
which must name a disruption at the right moment, so that a run without it fails for the same finding.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import orjson

from tests.chaos.commits import Commits, finished
from tests.chaos.history import Call, Harm, History, Place, Record, Sample, Stream
from tests.chaos.verdict import Finding, Promise, Verdict

WINDOWS_S = (1.0, 10.0, 60.0)
# Calls are sent at an even pace and recorded when they arrive: a busy machine bunches them by so much.
ARRIVES_WITHIN_S = 0.1
# From an answer's last byte until the worker has read it and Redis has it, on a loaded machine.
STORED_WITHIN_S = 2.0
# How long a publish under way may take until the broker has it and Redis knows.
PUBLISHED_WITHIN_S = 15.0
_STUB = "dlq-original-bytes"


def judge(history: History) -> Verdict:
    """Return every break of a promise that the history shows."""
    view = _View(history)
    fates = view.fates()
    findings = (
        *_unfinished(fates),
        *_ends(view),
        *_early(history),
        *_out_of_order(view),
        *_over_limit(history),
        *_paid_twice(history),
        *_altered(view),
        *_leaked(history),
        *_committed_above(view),
        *(
            Finding(
                promise=Promise.EXITED, what=f"{each.process} ended with {each.code}, wanted {each.wanted}"
            )
            for each in history.exits
        ),
    )
    return Verdict(
        fates=Counter(fates.values()),
        findings=findings,
        parked=len({origin for origin, copies in view.copies.items() if copies}),
        calls=len(history.calls),
    )


def waiting(history: History) -> int:
    """Return how many events have not ended yet, lost ones included."""
    return sum(fate in ("waiting", "lost") for fate in _View(history).fates().values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    kind: str
    record: Record

    @property
    def id(self) -> tuple[str, str | None]:
        """What must be one for an event: dead letters keep their event's own id, if it has one."""
        return self.kind, self.record.text("ce_id")


class _View:
    """The history by origin."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.stream_of: dict[str, Stream] = {stream.input: stream for stream in history.streams}
        self.inputs: dict[Place, Record] = {
            record.place: record for record in history.of(stream.input for stream in history.streams)
        }
        self.ends: defaultdict[Place, list[_End]] = defaultdict(list)
        self.copies: defaultdict[Place, list[Record]] = defaultdict(list)
        for stream in history.streams:
            for kind, topic in (("result", stream.results), ("dead letter", stream.dlq)):
                for record in history.of([topic]):
                    if record.origin is not None:
                        self.ends[record.origin].append(_End(kind=kind, record=record))
            for record in history.of([*stream.tiers, stream.due]):
                if record.origin is not None:
                    self.copies[record.origin].append(record)
        for ends in self.ends.values():
            ends.sort(key=lambda end: (end.record.at_s, end.record.place.offset))

    def fates(self) -> Mapping[Place, str]:
        """Say of every event that Kafka accepted what became of it."""
        commits = Commits(self.history.committed)
        return {origin: self._fate(record, commits) for origin, record in self.inputs.items()}

    def _fate(self, record: Record, commits: Commits) -> str:
        kinds = {end.kind for end in self.ends[record.place]}
        if kinds:
            return "result" if "result" in kinds else "dead letter"
        places = [record.place, *(copy.place for copy in self.copies[record.place])]
        if not all(map(commits.has, places)):
            return "waiting"
        return "recorded" if _ends_silently(record) else "lost"


def _ends_silently(record: Record) -> bool:
    """Whether the handler publishes nothing for this event by rule: an agent's message of a chat."""
    try:
        value = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and value.get("speaker") == "agent"


def _unfinished(fates: Mapping[Place, str]) -> Iterator[Finding]:
    for origin, fate in fates.items():
        if fate in ("lost", "waiting"):
            yield Finding(promise=Promise(fate), what=str(origin))


def _ends(view: _View) -> Iterator[Finding]:
    """Two ends of one event, and the same end again.

    The same end again is allowed where a crash, an outage or lost state lies between the two (a publish
    may be under way for some seconds before it shows). Ends of two kinds are allowed only after lost
    state, results with two ids never.
    """
    history = view.history
    for origin, ends in view.ends.items():
        if not ends:
            continue
        first = ends[0]
        if origin not in view.inputs:
            yield Finding(promise=Promise.TWO_ENDS, what=f"{origin} was never published")
            continue
        for again in ends[1:]:
            span = (first.record.at_s - PUBLISHED_WITHIN_S, again.record.at_s)
            if again.id == first.id:
                is_allowed = history.disrupted(Harm, *span)
                promise, excuse = Promise.REPEATED, "a disruption between the two"
            else:
                born_s = view.inputs[origin].at_s
                is_allowed = again.kind != first.kind and history.disrupted(
                    [Harm.STATE_LOST], born_s, again.record.at_s
                )
                promise, excuse = Promise.TWO_ENDS, "state was lost"
            what = f"{origin}: {first.id} at {first.record.at_s:.3f}, {again.id} at {again.record.at_s:.3f}"
            yield Finding(promise=promise, what=what, excuse=excuse if is_allowed else None)


def _early(history: History) -> Iterator[Finding]:
    for record in history.of(stream.due for stream in history.streams):
        due_ms = int(record.text("retry-due-at-ms") or 0)
        # Both are whole milliseconds.
        if round(record.at_s * 1000) < due_ms:
            early_ms = due_ms - round(record.at_s * 1000)
            yield Finding(
                promise=Promise.EARLY, what=f"{record.origin} at {record.place}: {early_ms} ms early"
            )


def _out_of_order(view: _View) -> Iterator[Finding]:
    """Results of one key that stand behind a result of a later event of it; each event's first counts."""
    history = view.history
    for stream in history.streams:
        if not stream.is_ordered:
            continue
        highest: dict[tuple[bytes, int], int] = {}
        seen: set[Place] = set()
        for record in sorted(history.of([stream.results]), key=lambda r: (r.place.partition, r.place.offset)):
            origin = record.origin
            if origin is None or origin in seen or origin not in view.inputs:
                continue
            seen.add(origin)
            lane = (_key_of(view.inputs[origin]), origin.partition)
            if origin.offset < highest.get(lane, -1):
                excused = history.disrupted([Harm.STATE_LOST], view.inputs[origin].at_s, record.at_s)
                yield Finding(
                    promise=Promise.OUT_OF_ORDER,
                    what=f"{origin} ended after {highest[lane]} of its key, at {record.at_s:.3f}",
                    excuse="state was lost" if excused else None,
                )
            highest[lane] = max(highest.get(lane, -1), origin.offset)


def _key_of(event: Record) -> bytes:
    """Return what keeps the event in order: without a key, the conversation that its value names."""
    if event.key is not None:
        return event.key
    return str(orjson.loads(event.value or b"null")["conversation_id"]).encode()


def _over_limit(history: History) -> Iterator[Finding]:
    """Look at every window of 1, 10 and 60 s that begins with a call, both of its ends included.

    Such a window may hold limit x window + burst and one more: an exact pace puts a call on either end.
    And what was on its way: calls sent up to 100 ms before the window may arrive in it.
    """
    sent = sorted(call.received_at_s for call in history.calls)
    for window_s in WINDOWS_S:
        allowed = history.limit.per_s * (window_s + ARRIVES_WITHIN_S) + history.limit.burst + 1
        worst, at_s = 0, 0.0
        for index, start_s in enumerate(sent):
            count = bisect_right(sent, start_s + window_s) - index
            if count > worst:
                worst, at_s = count, start_s
        if worst > allowed:
            yield Finding(
                promise=Promise.OVER_LIMIT,
                what=f"{worst} calls in {window_s:g} s from {at_s:.3f}, allowed {allowed:g}",
            )


def _paid_twice(history: History) -> Iterator[Finding]:
    """A whole answer for a step that had one before.

    Allowed only where an earlier answer was on the wire at a crash: a worker was killed or stopped between
    the arrival of the earlier call and 2 s after its last byte (then the answer was read and stored), or,
    where Redis was away in that time, 2 s after it was back. Allowed, too, where Redis lost data between
    the two calls: the memory of the first was in it.
    """
    paid: defaultdict[str, list[Call]] = defaultdict(list)
    for call in sorted(history.calls, key=lambda call: call.received_at_s):
        if call.is_paid:
            paid[call.step].append(call)
    for step, calls in paid.items():
        for index, again in enumerate(calls[1:], start=1):
            excuses = [_excuse(history, earlier, again) for earlier in calls[:index]]
            # Each earlier answer must be accounted for: one that was kept should have been found.
            excuse = None if None in excuses else str(excuses[0])
            first = calls[index - 1]
            yield Finding(
                promise=Promise.PAID_TWICE,
                what=f"{step}: {first.received_at_s:.3f}-{first.completed_at_s:.3f} and"
                f" {again.received_at_s:.3f}-{again.completed_at_s:.3f}",
                excuse=excuse,
            )


def _excuse(history: History, earlier: Call, again: Call) -> str | None:
    if history.disrupted([Harm.STATE_LOST], earlier.received_at_s, again.received_at_s):
        return "state was lost"
    stored_by_s = (earlier.completed_at_s or earlier.received_at_s) + STORED_WITHIN_S
    for each in sorted(history.disruptions, key=lambda each: each.start_s):
        if each.harm is Harm.STATE_AWAY and each.overlaps(earlier.received_at_s, stored_by_s):
            stored_by_s = max(stored_by_s, each.end_s + STORED_WITHIN_S)
    if history.disrupted([Harm.CRASH], earlier.received_at_s, stored_by_s):
        return "on the wire at a crash"
    return None


def _altered(view: _View) -> Iterator[Finding]:
    """Dead letters without the original bytes and headers; results that answer another event."""
    for origin, ends in view.ends.items():
        given = view.inputs.get(origin)
        for end in ends if given is not None else ():
            assert given is not None
            problem = _problem_of_letter(given, end.record) if end.kind == "dead letter" else None
            if end.kind == "result":
                problem = _problem_of_result(given, end.record)
            if problem is not None:
                yield Finding(
                    promise=Promise.ALTERED, what=f"{end.kind} {end.record.place} of {origin}: {problem}"
                )


def _problem_of_letter(given: Record, letter: Record) -> str | None:
    if letter.text("dlq-reason") is None:
        return "no reason"
    if letter.text(_STUB) is not None:
        return None if (given.value or b"").startswith(letter.value or b"") else "another value"
    # A record needs a key or a value: a tombstone without a key stands as an empty value.
    if letter.value != given.value and (given.key, given.value, letter.value) != (None, None, b""):
        return "another value"
    own = ("retry-", "replay-", "dlq-")
    kept = Counter(letter.headers)
    missing = Counter(header for header in given.headers if not header[0].startswith(own)) - kept
    return f"headers are missing: {sorted({name for name, _ in missing})}" if missing else None


def _problem_of_result(given: Record, result: Record) -> str | None:
    asked, said = orjson.loads(given.value or b"null"), orjson.loads(result.value or b"null")
    for name in ("conversation_id", "turn", "document_id"):
        if asked.get(name) != said.get(name):
            return f"another {name}"
    return "another key" if given.key is not None and result.key != given.key else None


def _leaked(history: History) -> Iterator[Finding]:
    for canary in history.canaries:
        for where, text in history.texts.items():
            if canary in text:
                yield Finding(promise=Promise.LEAKED, what=f"{canary} in {where}")
        for record in history.of(history.records):
            if any(canary.encode() in value or canary in name for name, value in record.headers):
                yield Finding(promise=Promise.LEAKED, what=f"{canary} in the headers of {record.place}")


def _committed_above(view: _View) -> Iterator[Finding]:
    """What a commit called finished before anything of it stood in Kafka.

    Sampled during the run: whatever a commit seen at some moment covers must, by the broker's append
    times, have had by then an end or a copy that lives on elsewhere.
    """
    history = view.history
    since = _Since(view)
    reported: set[Place] = set()
    for sample in history.samples:
        try:
            covered = finished(sample)
        except ValueError as error:
            yield Finding(promise=Promise.COMMITTED_ABOVE, what=f"{sample.topic}/{sample.partition}: {error}")
            continue
        for record in since.records(sample):
            place = record.place
            if place in reported or place.offset not in covered:
                continue
            at_s = since.finished_at_s(place)
            if at_s is None or at_s > sample.at_s:
                reported.add(place)
                late = "never" if at_s is None else f"{at_s - sample.at_s:.3f} s later"
                yield Finding(
                    promise=Promise.COMMITTED_ABOVE,
                    what=f"{place}, committed at {sample.at_s:.3f} by {sample.group}, was finished {late}",
                )


class _Since:
    """Since when a record is finished, by what stands in Kafka."""

    def __init__(self, view: _View) -> None:
        self._view = view
        self._records: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in view.history.of(view.history.records):
            self._records[record.place.topic, record.place.partition].append(record)
        self._tiers = frozenset(tier for stream in view.history.streams for tier in stream.tiers)
        self._at_s: dict[Place, float | None] = {}

    def records(self, sample: Sample) -> Iterable[Record]:
        """Return the records that a commit may be about."""
        return self._records[sample.topic, sample.partition]

    def finished_at_s(self, place: Place) -> float | None:
        """Return the earliest moment from which the record may be committed; None: never."""
        if place not in self._at_s:
            record = next(each for each in self._records[place.topic, place.partition] if each.place == place)
            self._at_s[place] = self._earliest(record)
        return self._at_s[place]

    def _earliest(self, record: Record) -> float | None:
        view = self._view
        is_input = record.place.topic in view.stream_of
        origin = record.place if is_input else record.origin
        if origin is None or origin not in view.inputs or _ends_silently(view.inputs[origin]):
            return 0.0  # what ends silently, or was never ours, leaves no trace in Kafka
        copies, ends = view.copies[origin], view.ends[origin]
        if record.place.topic in self._tiers:
            # A relay hands on; it ends nothing but what it cannot read.
            moments = [end.record.at_s for end in ends if end.kind == "dead letter"]
            moments += [copy.at_s for copy in copies if _is_handed_on(record, copy)]
        else:
            moments = [end.record.at_s for end in ends]
            moments += [copy.at_s for copy in copies if is_input or _supersedes(copy, record)]
        return min(moments, default=None)


def _is_handed_on(record: Record, copy: Record) -> bool:
    """Whether this is the same copy at another place."""
    return copy.place != record.place and copy.text("retry-copy") == record.text("retry-copy")


def _supersedes(copy: Record, record: Record) -> bool:
    """Whether another copy stands for the event: a later hop, or one made beside this one."""
    mine, other = record.text("retry-copy") or "", copy.text("retry-copy") or ""
    return other != mine and _hop(other) >= _hop(mine)


def _hop(copy: str) -> int:
    number = copy.partition("-")[0]
    return int(number) if number.isdigit() else 0

"""The conversation of an event's key: read once and fixed, written only with the event's end."""

from __future__ import annotations

from sluicegate.processing.signals import Broken, Fate
from sluicegate.state.api import EventRef, Histories, HistoryEntry
from sluicegate.state.patient import patiently


class EventHistory:
    """What `ctx.history` is behind its protocol."""

    def __init__(self, histories: Histories, ref: EventRef, fate: Fate) -> None:
        self._histories = histories
        self._ref = ref
        self._fate = fate
        self._appended: list[HistoryEntry] = []

    @property
    def appended(self) -> tuple[HistoryEntry, ...]:
        """What the handler left for later events."""
        return tuple(self._appended)

    async def earlier(self) -> tuple[HistoryEntry, ...]:
        """Return what earlier events of the key left; the same at every attempt at this event."""
        await self._fate.check()
        try:
            return await patiently(lambda: self._histories.earlier(self._ref))
        except Exception as error:
            raise self._fate.decide(Broken(error=error)) from error

    def append(self, entry: HistoryEntry) -> None:
        """Leave an entry for later events."""
        self._appended.append(entry)

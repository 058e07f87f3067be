"""How long the state keeps what, and how much of it: settings that every script gets as arguments."""

from __future__ import annotations

from dataclasses import dataclass

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Keeping times and bounds; the defaults are those of design section 7.

    `mark_s` is how long it is remembered that an event ended. An event that was ever parked is
    remembered until its last due time plus `horizon_s`, because a copy of it can turn up until then.
    """

    deadline_s: float = _DAY_S
    open_extra_s: float = 7 * _DAY_S
    mark_s: float = 6 * 3600
    horizon_s: float = 7 * _DAY_S
    dead_letter_s: float = 30 * _DAY_S
    history_s: float = 7 * _DAY_S
    history_entries: int = 50
    history_bytes: int = 64 * 1024
    lease_ms: int = 6_000
    heal_after_ms: int = 60_000

    @property
    def open_ms(self) -> int:
        """How long the state of an open event stays after its last change."""
        return int((self.deadline_s + self.open_extra_s) * 1000)

    @property
    def mark_ms(self) -> int:
        """How long a result's mark stays when the event was never parked."""
        return int(self.mark_s * 1000)

    @property
    def horizon_ms(self) -> int:
        """How long after its due time a copy may still turn up."""
        return int(self.horizon_s * 1000)

    @property
    def dead_letter_ms(self) -> int:
        """How long a dead letter's mark and steps stay: as long as the DLQ itself."""
        return int(self.dead_letter_s * 1000)

    @property
    def history_ms(self) -> int:
        """How long a conversation stays after its last entry."""
        return int(self.history_s * 1000)

"""What bookings came to, until the next batch tells Redis: given back unused, or used for more or less."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from sluicegate.limiter.api import NOTHING, Cost, Permit
from sluicegate.limiter.booking import BookingRef, GiveBack, News, Observation, Settlement
from sluicegate.limiter.waiters import Booking

SETTLE_WITHIN_S = 0.05
RENEW_EVERY_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToTell:
    """What is sent with one batch. `news` come with the event loop's time at which they were heard."""

    give_backs: tuple[GiveBack, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    news: tuple[tuple[News, float], ...] = ()
    observations: tuple[Observation, ...] = ()
    renewals: tuple[BookingRef, ...] = ()

    def news_at(self, now: float) -> tuple[News, ...]:
        """Return the news as of now: what a provider asked to wait has passed in part."""
        return tuple(_aged(news, now - heard_at) for news, heard_at in self.news)


class Unsettled:
    """The permits that were granted and not settled yet, and what is to be sent of those that were.

    `due_at` is the event loop's time by which to send; `wake` is called when it draws near.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.due_at = math.inf
        self._wake = wake
        self._granted: dict[str, tuple[Booking | None, float]] = {}
        self._unused: list[GiveBack] = []
        self._settlements: list[Settlement] = []
        self._news: list[tuple[News, float]] = []
        self._observations: dict[int, Observation] = {}
        self._renewed_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many permits are granted and not settled."""
        return len(self._granted)

    def expect(self, permit: Permit, booking: Booking | None) -> None:
        """Remember on which booking a permit was granted; None when its scope had no limit."""
        self._granted[permit.id] = (booking, _now())

    def booking_of(self, permit: Permit) -> Booking | None:
        """Return the booking of a permit that is not settled yet."""
        return self._granted.get(permit.id, (None, 0.0))[0]

    def settle(self, permit: Permit, actual: Cost | None) -> bool:
        """Note what the call really took, once a permit; return whether it gave its place to others."""
        booking, granted_at = self._granted.pop(permit.id, (None, 0.0))
        if booking is None:
            return False
        if actual == NOTHING:
            self.give_back(booking)
            return booking.is_leased
        extra = NOTHING if actual is None else _difference(actual, booking.cost)
        if not booking.is_leased and extra == NOTHING:
            return False
        self._settlements.append(
            Settlement(
                booking=booking.ref,
                extra=extra,
                is_released=booking.is_leased,
                is_alive=actual is not None,
                duration_us=int((_now() - granted_at) * 1e6),
            )
        )
        self._send_by(_now() + SETTLE_WITHIN_S)
        return booking.is_leased

    def give_back(self, booking: Booking) -> None:
        """Note that nobody will use the booking."""
        self._unused.append(GiveBack(booking=booking.ref, cost=booking.cost))
        self._send_by(_now() + SETTLE_WITHIN_S)

    def tell(self, news: News) -> None:
        """Note what a call showed: sent at once."""
        self._news.append((news, _now()))
        self._send_by(0.0)

    def observed(self, seen: Observation) -> None:
        """Note what headers said; of each dimension only the newest is worth sending."""
        before = self._observations.get(seen.dimension)
        if before is not None and seen.limit == 0:
            seen = dataclasses.replace(seen, limit=before.limit)
        self._observations[seen.dimension] = seen
        self._send_by(_now() + SETTLE_WITHIN_S)

    def hurry(self) -> None:
        """Have all that is noted sent at once."""
        self._send_by(0.0)

    def take(self) -> ToTell:
        """Take out what is to be sent now: give-backs, the newest first, and all else in order."""
        told = ToTell(
            give_backs=tuple(sorted(self._unused, key=lambda unused: -unused.booking.number)),
            settlements=tuple(self._settlements),
            news=tuple(self._news),
            observations=tuple(self._observations.values()),
            renewals=self._to_renew(),
        )
        self._unused, self._settlements, self._news, self._observations = [], [], [], {}
        self.due_at = math.inf
        return told

    def _to_renew(self) -> tuple[BookingRef, ...]:
        if _now() - self._renewed_at < RENEW_EVERY_S:
            return ()
        self._renewed_at = _now()
        return tuple(
            booking.ref for booking, _ in self._granted.values() if booking is not None and booking.is_leased
        )

    def _send_by(self, at: float) -> None:
        self.due_at = min(self.due_at, at)
        self._wake()


def _aged(news: News, seconds: float) -> News:
    if not news.retry_after_us:
        return news
    return dataclasses.replace(news, retry_after_us=max(1, news.retry_after_us - int(seconds * 1e6)))


def _difference(actual: Cost, reserved: Cost) -> Cost:
    """Return what is owed beyond the reservation; a request that was sent is never refunded."""
    return Cost(
        requests=max(0, actual.requests - reserved.requests),
        tokens=actual.tokens - reserved.tokens,
        input_tokens=actual.input_tokens - reserved.input_tokens,
        output_tokens=actual.output_tokens - reserved.output_tokens,
        micro_dollars=actual.micro_dollars - reserved.micro_dollars,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()

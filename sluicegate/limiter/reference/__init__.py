"""The limiter's algorithm in plain Python: what the Lua script must do, and the text that explains it.

A dimension of the minute is a continuous bucket, kept as one number (GCRA): the theoretical arrival time
`tat`, at which it would be full again. A call that needs `c` us of refill may start when
`tat + c - burst` has passed, and moves `tat` by `c`. A call larger than the burst starts when the bucket
is full, and leaves it in debt. So in any window at most `window + max(burst, largest call)` of refill is
started.

A booking that was not used is taken out only while it is the newest one: with later ones behind it
the hole cannot be described by one number, and calls let into it would come on top of those already
booked. Such a booking is forfeited. Refunds of usage (`Settlement`) have no such condition: they
correct what the provider counts, after the call. So requests never exceed the bound above, and neither
do reserved tokens; tokens as counted after the call may exceed it, in a window, by what is refunded in
it for calls started before it. A stricter rule would lose for good whatever was reserved too much.

`scope` opens and closes the state, `settling` corrects it, `hearing` learns from what calls showed,
`days` counts by the hour, `asking` answers requests. The script has the same parts in the same order.
"""

from sluicegate.limiter.reference.book import book
from sluicegate.limiter.reference.hearing import OUTAGE_CALLS, OUTAGE_US
from sluicegate.limiter.reference.scope import GUARD_US, MAX_STEP_BACK_US
from sluicegate.limiter.reference.settling import RAISE_US

__all__ = [
    "GUARD_US",
    "MAX_STEP_BACK_US",
    "OUTAGE_CALLS",
    "OUTAGE_US",
    "RAISE_US",
    "book",
]

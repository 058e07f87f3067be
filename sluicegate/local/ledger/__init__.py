"""The ledger: what became of every event, from Kafka and the provider's own records alone.

It shares no code with the processing of events, and parses headers and commits itself, so that a fault
there cannot hide itself here.
"""

from sluicegate.local.ledger.history import (
    CommittedPlaces,
    Copied,
    Ended,
    EndedAs,
    History,
    PartitionProgress,
    Published,
)
from sluicegate.local.ledger.ledger import Ledger, RunFacts, compute_ledger
from sluicegate.local.ledger.provider import Call, Cut, ProviderHistory, Quota

__all__ = [
    "Call",
    "CommittedPlaces",
    "Copied",
    "Cut",
    "Ended",
    "EndedAs",
    "History",
    "Ledger",
    "PartitionProgress",
    "ProviderHistory",
    "Published",
    "Quota",
    "RunFacts",
    "compute_ledger",
]

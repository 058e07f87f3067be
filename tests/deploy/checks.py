"""All checks of rendered manifests, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sluicegate.errors import ConfigurationError
from tests.deploy import checks_pods, checks_scaling, checks_timing, checks_wiring, schemas
from tests.deploy.rendering import Object

Check = Callable[[Sequence[Object]], Iterator[str]]

CHECKS: tuple[Check, ...] = (
    *schemas.CHECKS,
    *checks_wiring.CHECKS,
    *checks_pods.CHECKS,
    *checks_timing.CHECKS,
    *checks_scaling.CHECKS,
)


def faults(objects: Sequence[Object]) -> list[str]:
    """Return what is wrong, each as a sentence that names the object.

    A check that cannot even read what a mutant left of an object has found a fault, too.
    """
    found: list[str] = []
    for check in CHECKS:
        try:
            found += check(objects)
        except (AssertionError, ConfigurationError, LookupError, StopIteration, TypeError, ValueError) as exc:
            found.append(f"{check.__name__} cannot read this: {type(exc).__name__} {exc}")
    return found

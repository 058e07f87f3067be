"""Checks that find nothing show nothing: each seeded mistake is found, and named."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.deploy.checks import faults
from tests.deploy.mutants import OF_DEPLOYMENTS, OF_LOCKED_DOORS, OF_THE_REST, Mutant
from tests.deploy.rendering import Combination, render

_DEPLOYMENTS = Combination(overlay="prod", components=("keda", "monitoring", "network-policy"))
_LOCKED = Combination(overlay="prod", components=("kafka-scram",))
_REST = Combination(overlay="dev", components=("static-membership", "strimzi"))


def by_name(mutants: tuple[Mutant, ...]) -> pytest.MarkDecorator:
    """One test a mutant."""
    return pytest.mark.parametrize("mutant", mutants, ids=lambda mutant: mutant.name)


@by_name(OF_DEPLOYMENTS)
def test_a_mistake_in_a_deployment_is_found(mutant: Mutant) -> None:
    """Each check has mistakes that it alone is there for."""
    found = faults(mutant.of(render(_DEPLOYMENTS)))
    assert [fault for fault in found if mutant.said in fault], found


@by_name(OF_THE_REST)
def test_a_mistake_in_topics_and_lasting_names_is_found(mutant: Mutant) -> None:
    """The same for what the first combination lacks."""
    found = faults(mutant.of(render(_REST)))
    assert [fault for fault in found if mutant.said in fault], found


@by_name(OF_LOCKED_DOORS)
def test_a_mistake_in_how_kafka_lets_us_in_is_found(mutant: Mutant) -> None:
    """Accounts, their files and where these are mounted must fit."""
    found = faults(mutant.of(render(_LOCKED)))
    assert [fault for fault in found if mutant.said in fault], found


def test_no_mutant_stands_twice() -> None:
    """A copied line that was never changed would count for two."""
    names = Counter(mutant.name for mutant in (*OF_DEPLOYMENTS, *OF_LOCKED_DOORS, *OF_THE_REST))
    assert [name for name, count in names.items() if count > 1] == []

"""The ledger's keys about events: each is non-zero in a history made for it."""

from __future__ import annotations

import pytest

from sluicegate.local.ledger import EndedAs
from tests.unit.ledger_histories import DUE, INPUT, TIER, Story


def test_an_event_with_a_result_is_completed() -> None:
    """Also where its commit did not come to pass."""
    story = Story()
    story.end(story.publish())

    assert story.ledger().completed == 1


def test_a_silent_event_is_recorded_once_its_place_is_committed() -> None:
    """An agent's message ends without a record, so the commit is the only witness."""
    story = Story()
    story.publish(silent=True)
    story.commit(INPUT, 1)

    assert story.ledger().recorded == 1


def test_a_done_map_counts_like_a_commit() -> None:
    """What was done above the watermark is done."""
    story = Story()
    story.publish(silent=True)
    story.publish(silent=True)
    story.commit(INPUT, 0, frozenset({1}))

    ledger = story.ledger()

    assert (ledger.recorded, ledger.waiting) == (1, 1)


def test_a_dead_letter_is_an_end() -> None:
    """It counts as dead-lettered and not as lost."""
    story = Story()
    story.end(story.publish(), kind=EndedAs.DEAD_LETTER)
    story.commit(INPUT, 1)

    assert story.ledger().dead_lettered == 1


def test_an_uncommitted_place_in_the_input_is_waiting() -> None:
    """Nobody has taken it for done."""
    story = Story()
    story.publish()

    assert story.ledger().waiting == 1


@pytest.mark.parametrize("uncommitted", [TIER, DUE])
def test_an_uncommitted_copy_is_waiting(uncommitted: str) -> None:
    """A parked or released event waits where its copy lies."""
    story = Story()
    offset = story.publish()
    story.park(offset)
    story.release(offset)
    for topic in {INPUT, TIER, DUE} - {uncommitted}:
        story.commit(topic, 1)

    assert story.ledger().waiting == 1


def test_a_committed_event_without_an_end_is_lost() -> None:
    """A commit that ran ahead of the work is what this key is for."""
    story = Story()
    story.publish()
    story.commit(INPUT, 1)

    assert story.ledger().lost == 1


def test_an_event_whose_every_copy_is_committed_without_an_end_is_lost() -> None:
    """The way through the tiers changes nothing of that."""
    story = Story()
    offset = story.publish()
    story.park(offset)
    story.release(offset)
    for topic in (INPUT, TIER, DUE):
        story.commit(topic, 1)

    assert story.ledger().lost == 1


def test_a_silent_event_that_the_relay_dropped_is_lost() -> None:
    """A tier's record may only be committed once its copy is in `due`."""
    story = Story()
    story.park(story.publish(silent=True))
    story.commit(INPUT, 1)
    story.commit(TIER, 1)

    assert story.ledger().lost == 1


def test_a_further_end_with_another_id_or_kind_is_a_duplicate() -> None:
    """Three different ends of one event are two too many."""
    story = Story()
    offset = story.publish()
    story.end(offset)
    story.end(offset, ce_id="another")
    story.end(offset, kind=EndedAs.DEAD_LETTER)

    ledger = story.ledger()

    assert (ledger.duplicate_results, ledger.repeated_results) == (2, 0)
    assert ledger.completed == 1


def test_the_same_end_again_is_a_repeat() -> None:
    """After a crash the same end may be published again; it is counted apart."""
    story = Story()
    offset = story.publish()
    for _ in range(3):
        story.end(offset)

    ledger = story.ledger()

    assert (ledger.duplicate_results, ledger.repeated_results) == (0, 2)


def test_a_result_after_a_later_events_result_is_out_of_order() -> None:
    """Order is that of publishing, within a key."""
    story = Story()
    first, second, third = (story.publish() for _ in range(3))
    for offset in (second, first, third):
        story.end(offset)

    assert story.ledger().out_of_order == 1


def test_order_is_not_asked_across_keys_nor_of_unordered_streams_nor_of_repeats() -> None:
    """Only the first result of an event stands in the order of its key."""
    story = Story()
    one, other = story.publish(key="a"), story.publish(key="b")
    late, early = story.publish(key="c", ordered=False), story.publish(key="c", ordered=False)
    again, after = story.publish(key="d"), story.publish(key="d")
    for offset in (other, one, early, late, again, after, again):
        story.end(offset)

    assert story.ledger().out_of_order == 0


def test_parked_counts_events_not_copies() -> None:
    """An event that waited twice was parked."""
    story = Story()
    offset = story.publish()
    story.publish()
    story.park(offset, copy="1-a")
    story.park(offset, copy="2-b")

    assert story.ledger().parked == 1


def test_a_release_before_its_due_time_is_early() -> None:
    """Exactly due is not early."""
    story = Story()
    offset = story.publish()
    story.release(offset, due_ms=1000, at_ms=999)
    story.release(offset, due_ms=1000, at_ms=1000)

    assert story.ledger().released_early == 1


def test_lateness_is_told_by_its_quantiles() -> None:
    """99 releases on time and one a second late."""
    story = Story()
    offset = story.publish()
    for late_ms in [5] * 60 + [20] * 39 + [1000]:
        story.release(offset, due_ms=0, at_ms=late_ms)

    ledger = story.ledger()

    assert (ledger.lateness_p50_ms, ledger.lateness_p99_ms) == (5, 20)


def test_without_releases_there_is_no_lateness() -> None:
    """Nothing was late, and nothing was punctual either."""
    ledger = Story().ledger()

    assert (ledger.lateness_p50_ms, ledger.lateness_p99_ms) == (None, None)


def test_makespan_runs_from_the_first_event_to_the_last_end() -> None:
    """In seconds."""
    story = Story()
    first, second = story.publish(at_ms=500), story.publish(at_ms=900)
    story.end(second, at_ms=4000)
    story.end(first, at_ms=3000)

    assert story.ledger().makespan_s == 3.5


def test_the_run_is_named() -> None:
    """A ledger says where its figures come from."""
    ledger = Story().ledger().as_json()

    assert {name: ledger[name] for name in ("workers", "kafka", "redis", "seed")} == {
        "workers": 2,
        "kafka": "embedded",
        "redis": "embedded",
        "seed": 7,
    }


def test_every_key_of_the_contract_is_there_in_its_order() -> None:
    """Others read these names."""
    assert " ".join(Story().ledger().as_json()) == (
        "published completed recorded dead_lettered waiting lost duplicate_results repeated_results "
        "out_of_order parked released_early lateness_p50_ms lateness_p99_ms provider_calls provider_429s "
        "limit_exceeded paid_twice makespan_s ideal_s efficiency workers kafka redis seed"
    )


def test_a_lost_event_breaks_a_promise_and_a_repeat_only_without_a_kill() -> None:
    """The exit code hangs on these names."""
    story = Story()
    repeated = story.publish()
    story.end(repeated)
    story.end(repeated)
    story.publish()
    story.commit(INPUT, 2)

    ledger = story.ledger()

    assert ledger.broken(worker_was_killed=False) == ("lost", "repeated_results")
    assert ledger.broken(worker_was_killed=True) == ("lost",)

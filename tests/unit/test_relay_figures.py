"""How the relay's benchmarks and tests judge releases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.relay_figures import Release, most_above_drawn, most_in_a_window, quantile


def _releases(pairs: list[tuple[int, int]]) -> list[Release]:
    return [
        Release(copy=str(index), due_ms=due, stored_ms=stored, seen_ms=stored)
        for index, (due, stored) in enumerate(pairs)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=20), st.integers(1, 20)
)
def test_windows_match_brute_force(pairs: list[tuple[int, int]], window_ms: int) -> None:
    """Looking where something changes finds what looking at every window finds."""
    drawn, stored = [due for due, _ in pairs], [at for _, at in pairs]

    def inside(times: list[int], start: int) -> int:
        return sum(start <= at < start + window_ms for at in times)

    starts = range(-window_ms, 62)
    assert most_in_a_window(stored, window_ms) == max(inside(stored, start) for start in starts)
    above = max(inside(stored, start) - inside(drawn, start) for start in starts)
    assert most_above_drawn(_releases(pairs), window_ms) == above


def test_releases_at_the_moments_drawn_are_never_above_them() -> None:
    """A gathering that was drawn is no fault of the relay; one that was not is."""
    assert most_above_drawn(_releases([(5, 5), (5, 5), (5, 5)]), 10) == 0
    assert most_above_drawn(_releases([(0, 20), (10, 20), (20, 20)]), 10) == 2


def test_a_quantile_is_one_of_the_values() -> None:
    """No figure is made up between two measured ones."""
    assert (quantile([3, 1, 2], 0.5), quantile([1, 2, 3], 0.99)) == (2, 3)

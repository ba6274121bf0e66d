"""A client is never told the past as the present."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolclient import Conflict, Cursor, Freshness
from poolclient._freshness import Horizon
from poolcore.model import Incarnation

FIRST, SECOND = Incarnation(1, "first"), Incarnation(2, "second", forked_at=5)


def horizon(*incarnations: Incarnation) -> Horizon:
    seen = Horizon()
    for incarnation in incarnations:
        seen.learn(incarnation)
    return seen


def test_an_answer_from_behind_what_was_seen_is_stale_whatever_it_says() -> None:
    seen = horizon(FIRST)
    seen.advance("first", 10)
    assert seen.judged(Freshness("first", 9), asked_at=seen.newest).stale
    assert not seen.judged(Freshness("first", 10), asked_at=seen.newest).stale


def test_what_was_seen_after_asking_does_not_count() -> None:
    seen = horizon(FIRST)
    seen.advance("first", 9)
    asked_at = seen.newest
    seen.advance("first", 10)  # another call's answer, meanwhile
    assert not seen.judged(Freshness("first", 9), asked_at=asked_at).stale


def test_a_later_incarnation_is_newer_at_any_revision() -> None:
    seen = horizon(FIRST)
    seen.advance("first", 10)
    asked_at = seen.newest
    seen.learn(SECOND)
    assert not seen.judged(Freshness("second", 6), asked_at=asked_at).stale
    seen.advance("second", 6)
    assert seen.newest == Cursor("second", 6)
    assert seen.judged(Freshness("first", 11), asked_at=seen.newest).stale


def test_two_incarnations_of_one_count_exclude_each_other() -> None:
    seen = horizon(FIRST)
    with pytest.raises(Conflict):
        seen.learn(Incarnation(1, "other"))


@given(st.lists(st.tuples(st.sampled_from(["first", "second", "unknown"]), st.integers(1, 30))))
def test_the_horizon_never_goes_back(steps: list[tuple[str, int]]) -> None:
    seen = horizon(FIRST)
    order = {"first": 1, "second": 2}
    for incarnation, revision in steps:
        before = seen.newest
        if incarnation == "second":
            seen.learn(SECOND)
        seen.advance(incarnation, revision)
        after = seen.newest
        assert before is not None
        assert after is not None
        assert (order[after.incarnation], after.revision) >= (
            order[before.incarnation],
            before.revision,
        )

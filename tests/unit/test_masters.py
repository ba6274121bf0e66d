"""The record of masterships: one for each, the newest kept."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import Accession, Incarnation, MasterRecord, PoolId
from poolcore.replica import Put, Remove, State, changed
from poolmaster.decide.masters import MASTER_RECORDS_KEPT, began, founding_record
from support.small_pool import IGNITE, PHANTOM, POOL, THEN, small_pool

NEXT = Incarnation(2, "70000000-0000-4000-8000-000000000002", 7)


def after(state: State, term: int, *, why: Accession = Accession.ELECTED) -> State:
    """The pool once the mastership of `term` has begun, an hour later each."""
    now = THEN + timedelta(hours=term)
    changes = began(state, term=term, host=PHANTOM if term % 2 else IGNITE, now=now, why=why)
    return replace(state, tables=changed(state.tables, changes))


def told(state: State) -> list[tuple[int, int]]:
    return sorted((record.incarnation, record.term) for record in state.all(MasterRecord))


def test_a_mastership_is_recorded_with_what_made_it_begin() -> None:
    (record,) = after(small_pool(), 4, why=Accession.DESIGNATED).all(MasterRecord)
    assert (record.term, record.host, record.why) == (4, IGNITE, Accession.DESIGNATED)
    assert record.since == THEN + timedelta(hours=4)


def test_asking_for_the_same_record_again_changes_nothing() -> None:
    state = after(small_pool(), 4)
    later = THEN + timedelta(days=1)
    assert not began(state, term=4, host=IGNITE, now=later, why=Accession.RESTARTED)


def test_the_founding_has_the_record_that_its_mastership_would_make() -> None:
    record = founding_record(PoolId(POOL), PHANTOM, now=THEN)
    state = small_pool()
    founded = replace(state, tables=changed(state.tables, [Put(record)]))
    assert not began(founded, term=1, host=PHANTOM, now=THEN, why=Accession.RESTARTED)


@given(st.sets(st.integers(1, 400), max_size=130))
def test_the_newest_hundred_are_kept_whatever_the_clocks_said(terms: set[int]) -> None:
    state = small_pool()
    for term in sorted(terms):
        state = after(state, term)
    assert told(state) == [(1, term) for term in sorted(terms)][-MASTER_RECORDS_KEPT:]


def test_terms_of_a_later_incarnation_are_newer_than_higher_ones_of_an_earlier() -> None:
    state = small_pool()
    for term in range(1, MASTER_RECORDS_KEPT + 1):
        state = after(state, term)
    state = after(replace(state, incarnation=NEXT), 1)
    assert told(state) == [*((1, term) for term in range(2, MASTER_RECORDS_KEPT + 1)), (2, 1)]


def test_a_record_never_removes_itself() -> None:
    state = small_pool()
    for term in range(10, MASTER_RECORDS_KEPT + 10):
        state = after(state, term)
    changes = began(state, term=3, host=PHANTOM, now=THEN, why=Accession.RESTARTED)
    assert not [c for c in changes if isinstance(c, Remove)]

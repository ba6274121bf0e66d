"""What differs between two revisions: found from the log alone, and composing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.difference import FieldChange, ObjectDifference, Outcome, Touch
from poolcore.errors import PoolError, Reason
from poolcore.model import VM, Kind, PowerState, VmId
from poolcore.replica import Change, CommitId, Delta, Put, Remove
from poolcore.requests import RequestRecord
from poolcore.wire.codec import from_proto, to_proto
from poolmaster.service.foresight import difference
from support import strategies

Key = tuple[Kind, str]
World = dict[Key, VM]

VMS = [VmId(f"5000000{n}-0000-4000-8000-000000000000") for n in range(3)]


def vm(number: int, **fields: Any) -> VM:
    given: dict[str, Any] = {"name_label": f"vm{number}", "power_state": PowerState.HALTED}
    return VM(uuid=VMS[number], **(given | fields))


def delta(revision: int, *changes: Change) -> Delta:
    """The commit of a revision; the request of every other one is known."""
    request = RequestRecord(f"{revision}-id", b"", revision) if revision % 2 else None
    at = CommitId(1, revision)
    return Delta("incarnation", at, CommitId(1, revision - 1), changes, request)


def differing(log: Sequence[Delta], since: int, until: int) -> dict[Key, ObjectDifference]:
    """What is answered when only `log` is kept."""

    async def read(after: int, limit: int) -> list[Delta]:
        return [d for d in log if d.commit.revision > after][: min(limit, 2)]

    found = asyncio.run(difference(read, since, until))
    return {(d.kind, d.uuid): d for d in found}


changes = st.lists(
    st.one_of(
        st.builds(
            lambda n, text: Put(vm(n, name_description=text)),
            st.integers(0, 2),
            st.sampled_from(["", "a", "b"]),
        ),
        st.builds(lambda n: Remove(Kind.VM, VMS[n]), st.integers(0, 2)),
    ),
    max_size=3,
).map(tuple)
logs = st.lists(changes, min_size=1, max_size=8).map(
    lambda commits: [delta(number, *c) for number, c in enumerate(commits, start=1)]
)


def worlds(log: Sequence[Delta]) -> list[World]:
    """What there is at every revision from 0 on."""
    states: list[World] = [{}]
    for commit in log:
        now = dict(states[-1])
        for change in commit.changes:
            if isinstance(change, Put):
                assert isinstance(change.object, VM)
                now[Kind.VM, change.object.uuid] = change.object
            else:
                now.pop((change.kind, change.uuid), None)
        states.append(now)
    return states


@given(logs, st.data())
def test_it_is_the_difference_of_the_two_states(log: list[Delta], data: st.DataObject) -> None:
    until = data.draw(st.integers(0, len(log)))
    since = data.draw(st.integers(0, until))
    before, after = worlds(log)[since], worlds(log)[until]
    found = differing(log, since, until)
    told = {
        key: (d.before, d.after) for key, d in found.items() if d.outcome is not Outcome.UNCHANGED
    }
    assert all(d.before_kept for d in found.values())
    assert told == {
        key: (before.get(key), after.get(key))
        for key in before | after
        if before.get(key) != after.get(key)
    }


@given(logs, st.integers(0, 8), st.data())
def test_from_a_to_b_and_from_b_to_c_make_from_a_to_c(
    log: list[Delta], dropped: int, data: st.DataObject
) -> None:
    """Also when the beginning of the history is no longer kept."""
    dropped = min(dropped, len(log))
    a, b, c = sorted(data.draw(st.tuples(*[st.integers(dropped, len(log))] * 3)))
    kept = log[dropped:]
    first, second = differing(kept, a, b), differing(kept, b, c)
    composed = {
        key: replace(
            first.get(key, then := second.get(key, first.get(key))),  # type: ignore[type-var]
            after=then.after,  # type: ignore[union-attr]
            touches=tuple(
                touch for part in (first, second) if key in part for touch in part[key].touches
            ),
        )
        for key in first | second
    }
    assert composed == differing(kept, a, c)


def test_each_commit_of_an_object_is_named_once_with_its_request() -> None:
    log = [
        delta(1, Put(vm(0))),
        delta(2, Put(vm(0, name_description="x")), Put(vm(0, name_description="y"))),
        delta(3, Put(vm(0, name_description="z"))),
    ]
    ((_, found),) = differing(log, 1, 3).items()
    assert found.outcome is Outcome.CHANGED
    assert found.touches == (
        Touch(revision=2, term=1),
        Touch(revision=3, term=1, request_id="3-id"),
    )
    assert found.fields == (FieldChange("name_description", "", "z"),)


def test_entries_of_maps_are_fields_of_their_own() -> None:
    owned = vm(0, other_config={"owner": "ops", "gone": "x"})
    log = [delta(1, Put(owned)), delta(2, Put(replace(owned, other_config={"owner": "dev"})))]
    ((_, found),) = differing(log, 1, 2).items()
    assert found.fields == (
        FieldChange("other_config.gone", "x", None),
        FieldChange("other_config.owner", "ops", "dev"),
    )


def test_what_an_object_was_before_the_history_is_not_made_up() -> None:
    log = [
        delta(1, Put(vm(0)), Put(vm(1))),
        delta(2, Put(vm(1, name_description="x"))),
        delta(3, Put(vm(0, name_description="x")), Remove(Kind.VM, VMS[1])),
    ]
    found = differing(log[1:], 2, 3)
    unknown, known = found[Kind.VM, VMS[0]], found[Kind.VM, VMS[1]]
    assert (unknown.outcome, unknown.before_kept) == (Outcome.CHANGED, False)
    assert unknown.fields == ()
    assert (known.outcome, known.before) == (Outcome.REMOVED, vm(1, name_description="x"))


def test_a_range_that_begins_before_the_history_is_refused_with_where_it_begins() -> None:
    log = [delta(number, Put(vm(0))) for number in range(1, 6)]
    with pytest.raises(PoolError) as refused:
        differing(log[2:], 1, 5)
    assert refused.value.reason is Reason.HISTORY_GONE
    assert refused.value.params == {"since": "1", "oldest": "2"}
    assert differing(log[2:], 2, 5)


def test_history_that_goes_while_it_is_read_is_refused_not_left_out() -> None:
    log = [delta(number, Put(vm(0))) for number in range(1, 6)]

    async def read(after: int, limit: int) -> list[Delta]:
        found = [d for d in log if d.commit.revision > after][:2]
        del log[:2]
        return found

    with pytest.raises(PoolError) as refused:
        asyncio.run(difference(read, 0, 5))
    assert refused.value.reason is Reason.HISTORY_GONE


def test_nothing_is_read_where_nothing_lies_between() -> None:
    log = [delta(number, Put(vm(0))) for number in range(1, 4)]
    assert all(not differing(log, number, number) for number in range(4))
    assert [len(differing(log, a, b)) for a, b in pairwise(range(4))] == [1, 1, 1]


@given(strategies.instances(ObjectDifference))
def test_a_difference_survives_the_round_trip(found: ObjectDifference) -> None:
    assert from_proto(to_proto(found)) == found

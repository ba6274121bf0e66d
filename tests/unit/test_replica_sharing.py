"""A delta costs its own size: whatever it does not touch is the very same object afterwards."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from poolcore.model import Kind
from poolcore.replica import Change, Put, Remove, State, apply
from support.chain_samples import commits, crowded, following, vm


def touched(changes: tuple[Change, ...]) -> set[tuple[Kind, str]]:
    return {
        (c.object.KIND, c.object.uuid) if isinstance(c, Put) else (c.kind, c.uuid) for c in changes
    }


@settings(max_examples=30)  # Objects of every kind take long to draw.
@given(commits)
def test_what_a_delta_does_not_touch_is_shared(
    commits: list[tuple[tuple[Change, ...], bool, bool]],
) -> None:
    state = crowded(1, 20)
    for changes, asked, new_term in commits:
        before = state
        state = apply(before, following(before, changes, asked=asked, new_term=new_term))
        keys = touched(changes)
        for kind, table in before.tables.items():
            after = state.tables.get(kind, Map())
            if kind not in {k for k, _ in keys}:
                assert after is table
            for uuid, obj in table.items():
                if (kind, uuid) not in keys:
                    assert after[uuid] is obj


@given(st.integers(0, 199))
def test_a_state_that_somebody_holds_never_changes(number: int) -> None:
    before = crowded(1, 200)
    copy = {obj.uuid: obj for obj in before.objects()}
    put, remove = Put(vm(number, "renamed")), Remove(Kind.VM, vm((number + 1) % 200, "").uuid)
    after: State = apply(before, following(before, (put, remove), asked=True, new_term=False))
    assert {obj.uuid: obj for obj in before.objects()} == copy
    assert len(before) == 201
    assert len(after) == 200


@settings(max_examples=30)  # Objects of every kind take long to draw.
@given(commits)
def test_a_commit_that_changes_nothing_leaves_the_very_tables(
    commits: list[tuple[tuple[Change, ...], bool, bool]],
) -> None:
    state = crowded(1, 5)
    for _, asked, new_term in commits:
        after = apply(state, following(state, (), asked=asked, new_term=new_term))
        assert after.tables is state.tables
        if not asked and state.revision < state.history_revisions:
            assert after.requests is state.requests
        state = after

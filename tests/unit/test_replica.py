"""The law of the replica: applying the deltas equals taking the snapshot; and it is cheap."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import SR, VM, Incarnation, Kind, Pool, PoolId, PowerState, SrId, VmId
from poolcore.replica import (
    Change,
    CommitId,
    Delta,
    DeltaDoesNotFollow,
    Put,
    Remove,
    State,
    apply,
    dump,
    snapshot,
)
from poolcore.requests import RequestRecord
from poolcore.wire.chain import SnapshotAssembler, decode_delta, encode_delta, snapshot_frames

FIRST = Incarnation(1, "i")
HISTORY = 5

vms = st.builds(
    lambda number, name: VM(
        uuid=VmId(f"vm{number}"), name_label=name, power_state=PowerState.HALTED
    ),
    st.integers(0, 4),
    st.text(max_size=3),
)
changes = st.lists(
    st.one_of(vms.map(Put), st.integers(0, 4).map(lambda n: Remove(Kind.VM, f"vm{n}"))),
    max_size=3,
)
commits = st.lists(st.tuples(changes, st.booleans()), max_size=14)


def founded() -> State:
    pool = Pool(uuid=PoolId("p"), name_label="p", history_revisions=HISTORY)
    sr = SR(uuid=SrId("s"), name_label="s", type="dir")
    return snapshot(FIRST, CommitId(1, 1), (pool, sr), ())


def after(
    state: State, changes: tuple[Change, ...], *, asked: bool = False, term: int = 1
) -> Delta:
    revision = state.revision + 1
    record = RequestRecord(f"{state.revision}-nonce{revision:04}", b"h", revision)
    return Delta("i", CommitId(1, revision), state.last, changes, record if asked else None)


@given(commits)
def test_applying_the_deltas_equals_taking_the_snapshot(
    commits: list[tuple[list[Change], bool]],
) -> None:
    state, plain = founded(), {o.uuid: o for o in founded().objects()}
    for changes, asked in commits:
        state = apply(state, after(state, tuple(changes), asked=asked))
        for change in changes:
            if isinstance(change, Put):
                plain[change.object.uuid] = change.object
            else:
                plain.pop(change.uuid, None)
    requests = state.requests.by_id.values()

    taken = snapshot(FIRST, state.last, plain.values(), requests)

    assert taken == state
    assert dump(taken) == dump(state)


@given(commits)
def test_a_state_and_its_deltas_survive_the_wire(commits: list[tuple[list[Change], bool]]) -> None:
    state = founded()
    for changes, asked in commits:
        delta = after(state, tuple(changes), asked=asked)
        state = apply(state, decode_delta(encode_delta(delta)))
    assembler = SnapshotAssembler()
    *_, taken = [assembler.add(frame) for frame in snapshot_frames(state)]
    assert taken == state


def test_only_the_last_requests_are_remembered() -> None:
    state = founded()
    for _ in range(3 * HISTORY):
        state = apply(state, after(state, (), asked=True))
    revisions = sorted(state.requests.by_revision)
    assert revisions == list(range(state.revision - HISTORY + 1, state.revision + 1))
    assert len(state.requests.by_id) == HISTORY


def test_a_delta_leaves_what_it_does_not_touch_as_it_is() -> None:
    before = founded()
    vm = VM(uuid=VmId("v"), name_label="v", power_state=PowerState.HALTED)
    state = apply(before, after(before, (Put(vm),)))

    changed = apply(state, after(state, (Put(replace(vm, name_label="w")),)))

    assert changed.tables[Kind.SR] is state.tables[Kind.SR]
    assert changed.tables[Kind.POOL] is before.tables[Kind.POOL]
    assert state.get(VM, "v") == vm


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: replace(d, incarnation="other"),
        lambda d: replace(d, predecessor=CommitId(1, 0)),
        lambda d: replace(d, predecessor=CommitId(2, 1)),
        lambda d: replace(d, commit=CommitId(1, 3)),
        lambda d: replace(d, commit=CommitId(1, 1)),
    ],
    ids=["incarnation", "skipped", "other term", "gap", "repeated"],
)
def test_a_delta_that_does_not_follow_is_refused(wrong) -> None:  # type: ignore[no-untyped-def]
    state = founded()
    with pytest.raises(DeltaDoesNotFollow):
        apply(state, wrong(after(state, ())))

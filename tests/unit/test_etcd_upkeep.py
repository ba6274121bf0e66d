"""When the files of the pool's own etcd are made smaller, and in which order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolmaster.decide.etcd_upkeep import (
    COMPACT_BYTES,
    COMPACT_PAUSE_SECONDS,
    DEFRAGMENT_BYTES,
    MIB,
    PAUSE_SECONDS,
    ROOM_PAUSE_SECONDS,
    Compact,
    Defragment,
    MakeRoom,
    Member,
    MoveLeader,
    Since,
    Step,
    Wait,
    limit_warnings,
    next_step,
    warnings,
)

LONG_AGO = Since(
    defragmented=PAUSE_SECONDS, compacted=COMPACT_PAUSE_SECONDS, made_room=ROOM_PAUSE_SECONDS
)


def member(number: int, *, leads: bool = False, mib: float = 300, in_use: float = 20) -> Member:
    return Member(
        id=number,
        address=f"192.0.2.{number}:7444",
        leads=leads,
        size_bytes=int(mib * MIB),
        in_use_bytes=int(in_use * MIB),
    )


def test_one_after_the_other_is_written_anew_and_the_leader_gives_the_lead_away_first() -> None:
    members = [member(1, leads=True), member(2), member(3)]
    done: list[Step] = []
    while (step := next_step(members, LONG_AGO)) != Wait():
        done.append(step)
        match step:
            case Defragment(address):
                members = [replace(m, size_bytes=m.in_use_bytes) if m.address == address else m
                           for m in members]  # fmt: skip
            case MoveLeader(_, to):
                members = [replace(m, leads=m.id == to) for m in members]
    assert done == [
        Defragment("192.0.2.2:7444"),
        Defragment("192.0.2.3:7444"),
        MoveLeader("192.0.2.1:7444", 2),
        Defragment("192.0.2.1:7444"),
    ]


def test_nothing_is_written_anew_a_moment_after_another() -> None:
    members = [member(1, leads=True), member(2), member(3)]
    assert next_step(members, replace(LONG_AGO, defragmented=PAUSE_SECONDS - 1)) == Wait()


@pytest.mark.parametrize(
    "third",
    [
        replace(member(3), answers=False),
        replace(member(3), votes=False),
        replace(member(3), leads=True),
    ],
    ids=["does not answer", "has no vote yet", "two say that they lead"],
)
def test_as_long_as_not_all_is_well_nothing_is_written_anew(third: Member) -> None:
    assert next_step([member(1, leads=True), member(2), third], LONG_AGO) == Wait()


@pytest.mark.parametrize("second", [member(2, mib=127), member(2, in_use=150)])
def test_what_would_gain_little_is_left_as_it_is(second: Member) -> None:
    assert next_step([member(1, leads=True, in_use=280), second], LONG_AGO) == Wait()


def test_one_that_is_alone_is_written_anew_although_it_leads() -> None:
    assert next_step([member(1, leads=True)], LONG_AGO) == Defragment("192.0.2.1:7444")


def test_what_was_overwritten_is_dropped_before_it_reaches_the_quota() -> None:
    members = [member(1, leads=True, mib=1500, in_use=1100), member(2)]
    assert next_step(members, LONG_AGO) == Compact()
    # If all of it is needed, not at every look.
    since = replace(LONG_AGO, compacted=COMPACT_PAUSE_SECONDS - 1)
    assert next_step(members, since) == Defragment("192.0.2.2:7444")


def test_at_the_quota_room_is_made_whoever_is_away() -> None:
    members = [replace(member(1), full=True), replace(member(2), answers=False)]
    assert next_step(members, LONG_AGO) == MakeRoom()
    assert next_step(members, replace(LONG_AGO, made_room=ROOM_PAUSE_SECONDS - 1)) == Wait()


sizes = st.integers(0, 4 * DEFRAGMENT_BYTES)
seconds = st.floats(0, 1200)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), sizes, sizes), min_size=1, max_size=5),
    st.tuples(seconds, seconds),
)
def test_a_member_that_leads_others_is_never_written_anew(
    drawn: list[tuple[bool, bool, int, int]], ago: tuple[float, float]
) -> None:
    members = [
        replace(member(number, leads=leads), answers=answers, size_bytes=size, in_use_bytes=in_use)
        for number, (leads, answers, size, in_use) in enumerate(drawn)
    ]
    since = Since(defragmented=ago[0], compacted=ago[1], made_room=0.0)
    match next_step(members, since):
        case Defragment(address):
            (chosen,) = (m for m in members if m.address == address)
            assert len(members) == 1 or not chosen.leads
            assert all(m.answers for m in members)
            assert ago[0] >= PAUSE_SECONDS
        case MoveLeader(address, to):
            (chosen,) = (m for m in members if m.address == address)
            assert chosen.leads
            assert to != chosen.id
        case Compact():
            assert max(m.in_use_bytes for m in members) > COMPACT_BYTES


def test_a_person_is_told_of_a_quota_that_is_reached_or_near() -> None:
    near = replace(member(1, mib=1700), quota_bytes=2048 * MIB)
    (warning,) = warnings([near], own=False)
    assert warning.code == "ETCD_NEARLY_FULL"
    assert "1.7e+03" not in warning.message
    assert not list(warnings([replace(near, size_bytes=MIB)], own=False))
    for own in (True, False):
        (warning,) = warnings([replace(near, full=True)], own=own)
        assert warning.code == "ETCD_FULL"
        assert ("by itself" in warning.remedy) is own


def test_limits_that_are_too_low_are_told_with_what_to_set() -> None:
    asked = (4096, 8 * MIB)
    address = "192.0.2.1:2379"
    found = list(limit_warnings(address, fewer_operations=True, request_bytes=MIB, asked=asked))
    assert [warning.code for warning in found] == ["ETCD_LIMIT", "ETCD_LIMIT"]
    assert "--max-txn-ops=4096" in found[0].remedy
    assert "--max-request-bytes=8388608" in found[1].remedy
    assert not list(
        limit_warnings(address, fewer_operations=False, request_bytes=None, asked=asked)
    )

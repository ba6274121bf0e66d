"""What one voter's disk has beyond the replicas, read from etcd's write-ahead log."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from poolcore.facts import KnownCommit, Tail
from poolcore.model import HostId
from poolcore.replica import Head
from poolcore.wire.chain import encode_delta
from poolmanager.etcd.v3 import wal_pb2 as pb
from poolmaster.decide.emergency import tail_to_take
from poolmaster.layout import HEAD, encode_head, log_key
from poolmaster.store.contract import Compare, Write
from poolmember.etcd.tail import read_tail
from poolmember.etcd.wal import FOLDER
from support.chain_samples import FOUNDED, INCARNATION, endless
from support.wal_files import PREFIX, entry, file_of, write_files

A, B, C = HostId("a"), HostId("b"), HostId("c")
COMMITS = list(islice(endless(FOUNDED), 8))
"""Revisions 2 to 9, each with its bytes."""


def register(revision: int) -> bytes:
    last = next((s.last for _, _, s in COMMITS if s.revision == revision), FOUNDED.last)
    return encode_head(Head(INCARNATION, last.term, last.revision, A))


def committed(
    index: int, *revisions: int, term: int = 1, after: bytes | None = None
) -> pb.RaftEntry:
    """The entry of one transaction with these commits."""
    logged = [Write(log_key(r), COMMITS[r - 2][1]) for r in revisions]
    before = register(revisions[0] - 1) if after is None else after
    writes = [*logged, Write(HEAD, register(revisions[-1]))]
    return entry(index, writes, [Compare(HEAD, before)], term=term)


def known(revision: int) -> KnownCommit:
    return KnownCommit.of(revision, COMMITS[revision - 2][1])


def deltas(*revisions: int) -> tuple[bytes, ...]:
    return tuple(COMMITS[r - 2][1] for r in revisions)


def tail(folder: Path, revision: int) -> Tail:
    return read_tail(folder, PREFIX, known(revision))


def test_what_follows_a_commit_is_found_in_order(tmp_path: Path) -> None:
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3, 4), committed(7, 5)]))
    assert tail(tmp_path, 2) == Tail((1, 1, 7), deltas(3, 4, 5))
    # A commit in the middle of a transaction: all of that was applied.
    assert tail(tmp_path, 3) == Tail((1, 1, 7), deltas(4, 5))
    assert tail(tmp_path, 5) == Tail((1, 1, 7))


def test_a_disk_that_lacks_the_commit_itself_has_nothing_beyond_it(tmp_path: Path) -> None:
    write_files(tmp_path, file_of([committed(1, 2)]))
    assert tail(tmp_path, 4) == Tail()


def test_a_commit_of_the_same_revision_and_other_content_is_another(tmp_path: Path) -> None:
    write_files(tmp_path, file_of([committed(1, 2), committed(2, 3)]))
    other = replace(COMMITS[0][0], changes=())
    assert read_tail(tmp_path, PREFIX, KnownCommit.of(2, encode_delta(other))) == Tail()


def test_nothing_is_there_where_nothing_was_written(tmp_path: Path) -> None:
    assert tail(tmp_path, 2) == Tail()


def test_a_transaction_that_lands_late_is_not_taken(tmp_path: Path) -> None:
    late = committed(7, 4, after=register(2))
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3), late]))
    assert tail(tmp_path, 2) == Tail((1, 1, 7), deltas(3))


def test_a_transaction_that_was_sent_twice_counts_where_it_was_applied(tmp_path: Path) -> None:
    """Its outcome was not known; the second one was applied, the first one landed late."""
    again = committed(7, 2)
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3), again]))
    assert tail(tmp_path, 2) == Tail((1, 1, 7), deltas(3))
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3), again, committed(8, 4)]))
    assert tail(tmp_path, 2) == Tail((1, 1, 8), deltas(3, 4))


def test_the_second_of_two_may_be_all_that_the_newest_file_has(tmp_path: Path) -> None:
    first = file_of([committed(4, 2), committed(5, 3), committed(6, 4)])
    second = file_of([committed(7, 3), committed(8, 5)], checksum=77)
    write_files(tmp_path, first, second)
    assert tail(tmp_path, 3) == Tail((1, 1, 8), deltas(4, 5))


def test_commits_that_the_history_has_dropped_are_found_all_the_same(tmp_path: Path) -> None:
    dropped = entry(
        7,
        [
            Write(log_key(4), COMMITS[2][1]),
            Write(HEAD, register(4)),
            Write(log_key(3), None),
        ],
        [Compare(HEAD, register(3))],
    )
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3), dropped]))
    assert tail(tmp_path, 2) == Tail((1, 1, 7), deltas(3, 4))


def test_a_member_that_took_a_snapshot_does_not_tell_what_came_before_it(tmp_path: Path) -> None:
    """Its log goes on behind what the leader has sent it as a whole."""
    write_files(tmp_path, file_of([committed(5, 2), committed(6, 3), committed(90, 7)]))
    assert tail(tmp_path, 2) == Tail(whole=False)
    assert tail(tmp_path, 7) == Tail((1, 1, 90))
    # Also where the log begins there: the first file is no sign that nothing was before.
    write_files(tmp_path, file_of([committed(90, 7), committed(91, 8)]))
    assert tail(tmp_path, 5) == Tail(whole=False)


def test_what_another_leader_has_put_in_its_place_counts(tmp_path: Path) -> None:
    claimed = encode_head(Head(INCARNATION, 9, 2, B))
    claim = entry(6, [Write(HEAD, claimed)], [Compare(HEAD, register(2))], term=2)
    entries = [committed(5, 2), committed(6, 3), committed(7, 4), claim]
    write_files(tmp_path, file_of(entries))
    assert tail(tmp_path, 2) == Tail((1, 2, 6))
    write_files(tmp_path, file_of([*entries, committed(7, 3, term=2, after=claimed)]))
    assert tail(tmp_path, 2) == Tail((1, 2, 7), deltas(3))


def test_a_store_that_is_only_copied_there_has_nothing(tmp_path: Path) -> None:
    copied = entry(5, [Write(log_key(r), COMMITS[r - 2][1]) for r in (2, 3, 4)])
    write_files(tmp_path, file_of([copied]))
    assert tail(tmp_path, 2) == Tail()
    # With the register the founding is done, and what was copied counts.
    founded = entry(6, [Write(HEAD, register(4))], [Compare(HEAD, None)])
    write_files(tmp_path, file_of([copied, founded, committed(7, 5)]))
    assert tail(tmp_path, 2) == Tail((1, 1, 7), deltas(3, 4, 5))


def test_older_files_are_read_as_far_as_it_takes(tmp_path: Path) -> None:
    first = file_of([committed(5, 2), committed(6, 3)])
    second = file_of([committed(7, 4), committed(8, 5)], checksum=77)
    third = file_of([], checksum=78)
    write_files(tmp_path, first, second, third)
    assert tail(tmp_path, 2) == Tail((1, 1, 8), deltas(3, 4, 5))
    assert tail(tmp_path, 4) == Tail((1, 1, 8), deltas(5))
    # etcd has removed the file that the commit was in: what follows it cannot be told.
    next((tmp_path / FOLDER).glob(f"{0:016x}-*")).unlink()
    assert tail(tmp_path, 2) == Tail(whole=False)


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_record_that_was_written_in_part_is_none(tmp_path: Path, kept: int) -> None:
    whole = file_of([committed(5, 2), committed(6, 3)])
    last = file_of([committed(5, 2), committed(6, 3), committed(7, 4)])
    begun = len(whole) - 4096
    write_files(tmp_path, last[: begun + kept] + bytes(4096))
    assert tail(tmp_path, 2).deltas == deltas(3)


def test_a_damaged_record_ends_what_can_be_told(tmp_path: Path) -> None:
    content = bytearray(file_of([committed(5, 2), committed(6, 3), committed(7, 4)]))
    content[content.index(COMMITS[2][1]) + 5] ^= 1
    write_files(tmp_path, bytes(content))
    assert tail(tmp_path, 2) == Tail((1, 1, 6), deltas(3), whole=False)


def test_a_log_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "0000000000000000-0000000000000000.wal").mkdir(parents=True)
    assert tail(tmp_path, 2) == Tail(whole=False)


# -- which one is taken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ({}, None),
        ({A: None, B: Tail()}, None),
        ({A: Tail((1, 4, 9), (b"x",)), B: Tail((1, 4, 10), (b"x", b"y")), C: None}, B),
        # Another leader came, and B's were not among what it had: they were never committed.
        ({A: Tail((1, 5, 8)), B: Tail((1, 4, 10), (b"x",))}, None),
        ({A: Tail((1, 5, 8), (b"z",)), B: Tail((1, 4, 10), (b"x", b"y"))}, A),
        # A store of a later incarnation has all of an earlier one.
        ({A: Tail((3, 2, 8), (b"z",)), B: Tail((2, 40, 10), (b"x", b"y"))}, A),
    ],
)
def test_the_log_that_raft_would_elect_is_taken(
    tails: dict[HostId, Tail | None], expected: HostId | None
) -> None:
    taken = tail_to_take(tails)
    assert (None if taken is None else taken[0]) == expected

"""What the chaos test looks at besides linearizability: violations planted in a small chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from immutables import Map

from chaos.verdict import findings, of_masters, of_requests, of_watchers
from poolcore.model import HostId, Kind, Lock, LockId
from poolcore.replica import Change, CommitId, Delta, Head, Put, Remove
from poolcore.requests import RequestRecord
from support import timeline
from support.history import Kind as Asked
from support.history import Operation, Outcome, Value
from support.small_pool import IGNITE, INCARNATION, PHANTOM, THEN, host
from support.timeline import Timeline, entry_key, lock_key

KEY = entry_key("phantom", "x")
LOCK = Lock(
    uuid=LockId("80000000-0000-4000-8000-000000000001"),
    name_label="nightly",
    holder="a",
    acquired=THEN,
    ttl_seconds=60,
    token=4,
)


def entry(value: str) -> Put:
    return Put(replace(host(PHANTOM, "phantom", 1), other_config=Map({"x": value})))


def commit(revision: int, *changes: Change, term: int = 1) -> Delta:
    request = RequestRecord(f"0-nonce{revision:08}", b"hash", revision)
    before = CommitId(term, revision - 1)
    return Delta(INCARNATION.uuid, CommitId(term, revision), before, changes, request)


CHAIN = (
    commit(1, entry("0")),
    commit(2, entry("1")),
    commit(3, Put(host(IGNITE, "ignite", 2))),
    commit(4, Put(LOCK)),
    commit(5, Remove(Kind.LOCK, LOCK.uuid)),
    commit(6, entry("2")),
)


def head(term: int, revision: int, master: HostId = PHANTOM) -> Head:
    return Head(INCARNATION, term, revision, master)


HEADS = tuple(head(1, revision) for revision in (1, 2, 4, 6))
"""Commits are made together: not every revision has its own."""
SEEN = [delta.commit for delta in CHAIN]


def wrote(value: Value, at: float, revision: int | None, **told: object) -> Operation:
    done = Operation("a", KEY, Asked.WRITE, value, at, at + 1, Outcome.OK, revision=revision)
    return replace(done, **told)  # type: ignore[arg-type]  # of whatever field


def read(value: Value, at: float, revision: int, **told: object) -> Operation:
    done = Operation("b", KEY, Asked.READ, value, at, at + 1, Outcome.OK, revision=revision)
    return replace(done, **told)  # type: ignore[arg-type]  # of whatever field


GOOD = [
    wrote("0", 0, 1),
    read("0", 2, 1),
    wrote("1", 4, 2),
    read("0", 5.5, 1, stale=True, host="phantom"),
    read("1", 6, 3, host="phantom"),
    wrote("2", 8, 6),
    read("1", 10, 2, stale=True, host="phantom"),
]


def of(operations: Sequence[Operation]) -> list[str]:
    return timeline.findings(operations, Timeline(CHAIN))


def test_a_run_in_which_all_is_well() -> None:
    assert findings(GOOD, CHAIN, HEADS, [SEEN, SEEN]) == []


def test_registers_are_what_the_chain_says() -> None:
    found = Timeline(CHAIN)
    assert [found.at(KEY, revision) for revision in range(8)] == [
        None, "0", "1", "1", "1", "1", "2", "2",
    ]  # fmt: skip
    assert [found.at(lock_key("nightly"), revision) for revision in (3, 4, 5)] == [None, "a", None]
    assert found.at("phantom/y", 6) is None


def test_an_acknowledged_write_that_is_not_in_the_chain() -> None:
    (lost, _) = of([wrote("9", 8, 6)])
    assert lost.startswith("acknowledged, and made 0 times")


def test_a_write_that_was_made_twice_with_nothing_in_between() -> None:
    (repeated,) = of([wrote("1", 4, 3)])
    assert repeated.startswith("made at revision 2 already")


def test_a_write_that_was_made_twice_with_another_in_between() -> None:
    again = Timeline([*CHAIN, commit(7, entry("1"))])
    (repeated,) = timeline.findings([wrote("1", 4, 2)], again)
    assert repeated.startswith("acknowledged, and made 2 times")
    unknown = wrote("1", 4, None, outcome=Outcome.UNKNOWN)
    (repeated,) = timeline.findings([unknown], again)
    assert repeated.startswith("made 2 times")


def test_a_write_that_was_refused_and_made() -> None:
    (made,) = of([wrote("1", 4, None, outcome=Outcome.FAILED)])
    assert made.startswith("refused, and made")


def test_an_unknown_write_may_be_made_or_not() -> None:
    for value in ("1", "9"):
        assert of([wrote(value, 4, None, outcome=Outcome.UNKNOWN)]) == []


def test_a_state_that_never_was_even_if_it_is_called_stale() -> None:
    (wrong,) = of([read("2", 10, 3, stale=True)])
    assert wrong.startswith("the chain has '1' there")


def test_an_answer_called_fresh_from_before_what_somebody_knew() -> None:
    (late,) = of([wrote("1", 4, 2), read("0", 6, 1)])
    assert late.startswith("revision 2 was known before")
    assert of([wrote("1", 4, 2), read("0", 4.5, 1)]) == [], "they overlap"


def test_a_write_at_a_revision_that_was_known_before_it_was_asked_for() -> None:
    (late,) = of([read("1", 0, 2), wrote("1", 4, 2)])
    assert late.startswith("revision 2 was known before")


def test_a_host_that_goes_back() -> None:
    stale = [read("1", 10, 2, stale=True), read("0", 12, 1, stale=True)]
    here = [replace(operation, host="phantom") for operation in stale]
    (back,) = of(here)
    assert back.startswith("at this host this client has seen revision 2")
    assert of([here[0], replace(here[1], host="ignite")]) == [], "another host may be behind"


def test_a_host_that_calls_fresh_what_its_client_knows_to_be_old() -> None:
    (called,) = of([read("0", 6, 1, stale=True, behind=True)])
    assert called.startswith("called fresh by its host")


def test_two_writers_in_one_term() -> None:
    heads = (*HEADS[:2], head(1, 4, IGNITE), head(1, 6))
    assert any("two writers in term 1" in found for found in of_masters(heads, CHAIN))


def test_a_register_that_goes_back() -> None:
    for back in (head(1, 3), head(0, 6, IGNITE)):
        assert any("goes back" in found for found in of_masters((*HEADS, back), CHAIN))


def test_a_commit_of_another_term_than_the_registers() -> None:
    late = commit(6, entry("2"), term=2)
    (found,) = of_masters(HEADS, [*CHAIN[:5], late])
    assert found == f"{late.commit} was written when the register had term 1"


def test_commits_of_the_store_before_are_not_held_against_the_register_of_this_one() -> None:
    moved = [commit(revision, term=2) for revision in (7, 8)]
    heads = (head(2, 6), head(2, 8))
    assert list(of_masters(heads, [*CHAIN[:5], commit(6, term=2), *moved])) == []
    (found,) = of_masters(heads, [*CHAIN, *moved])
    assert "was written when the register had term 2" in found


def test_a_change_of_master_is_no_commit() -> None:
    assert list(of_masters((*HEADS, head(2, 6, IGNITE)), CHAIN)) == []
    (found,) = of_masters((*HEADS, head(2, 7, IGNITE)), CHAIN)
    assert found.startswith("a new master that commits in the same breath")


def test_a_request_that_was_made_twice() -> None:
    (found,) = of_requests([*CHAIN, replace(CHAIN[1], commit=CommitId(1, 7))])
    assert "was made at CommitId(term=1, revision=2) and at CommitId(term=1, revision=7)" in found


def test_a_watcher_that_misses_a_commit_or_is_told_twice_or_out_of_order() -> None:
    swapped = [*SEEN[:2], SEEN[3], SEEN[2], *SEEN[4:]]
    told = [SEEN, SEEN[:-1], [*SEEN[:2], *SEEN[3:]], [*SEEN[:2], SEEN[1], *SEEN[2:]], swapped]
    assert [found.partition(" was")[0] for found in of_watchers(told, CHAIN)] == [
        "watcher 1", "watcher 2", "watcher 3", "watcher 4",
    ]  # fmt: skip

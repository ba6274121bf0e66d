"""What a claim reads to know its state: as little as the host's own replica leaves to be read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from poolcore.model import Incarnation
from poolcore.replica import CommitId, State, dump
from poolmaster.claiming import LOG_PAGE, claim
from poolmaster.layout import LOG, OBJECTS
from poolmaster.ledger import SteppedDown
from poolmaster.store.contract import ReadResult, Store
from support.claims import Field, empty_field
from support.registers import IGNITE, INCARNATION, found_register
from support.stores import InterruptedStore, StoreAround


@pytest.fixture(params=["memory", "sqlite"])
async def field(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Field]:
    async with empty_field(request.param, tmp_path) as field:
        yield field


class ReadingStore(StoreAround):
    """Remembers from which key on it was read."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.read_from: list[bytes] = []

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        self.read_from.append(start)
        return await super().read(start, end, limit=limit, linearizable=linearizable)

    @property
    def loaded(self) -> bool:
        """Whether the objects were read."""
        return any(key.startswith(OBJECTS) for key in self.read_from)

    @property
    def log_reads(self) -> int:
        return sum(key.startswith(LOG) for key in self.read_from)


async def test_a_replica_that_is_up_to_date_costs_one_read_of_the_log(field: Field) -> None:
    await found_register(field.store)
    replica = await field.written(10)
    watched = ReadingStore(field.store)
    claimed = await claim(watched, IGNITE, replica=replica)
    assert claimed.state is replica
    assert (claimed.head.term, claimed.head.master) == (3, IGNITE)
    assert not watched.loaded
    assert watched.log_reads == 1, "the commit that it ends with is the store's"
    assert len(watched.read_from) == 2


@pytest.mark.parametrize(
    ("missing", "reads"), [(1, 1), (LOG_PAGE - 1, 1), (LOG_PAGE, 2), (2 * LOG_PAGE, 3)]
)
async def test_what_a_replica_lacks_is_read_in_pages_of_the_log(
    field: Field, missing: int, reads: int
) -> None:
    await found_register(field.store)
    replica = await field.written(3)
    newest = await field.written(missing)
    watched = ReadingStore(field.store)
    claimed = await claim(watched, IGNITE, replica=replica)
    assert dump(claimed.state) == dump(newest)
    assert not watched.loaded
    assert watched.log_reads == reads


def of_another_incarnation(replica: State, _newest: State) -> State:
    return replace(replica, incarnation=Incarnation(1, "6f1d6a5e-0000-4000-8000-0000000000ff"))


def ahead(_replica: State, newest: State) -> State:
    return replace(newest, last=CommitId(newest.last.term, newest.revision + 1))


def of_another_chain(replica: State, _newest: State) -> State:
    return replace(replica, last=CommitId(replica.last.term + 5, replica.revision))


def at_the_end_of_another_chain(_replica: State, newest: State) -> State:
    return replace(newest, last=CommitId(newest.last.term + 5, newest.revision))


def empty(replica: State, _newest: State) -> State:
    return State(replica.incarnation, CommitId(0, 0))


@pytest.mark.parametrize(
    "spoiled",
    [of_another_incarnation, ahead, of_another_chain, at_the_end_of_another_chain, empty],
)
async def test_a_replica_that_the_log_does_not_continue_is_not_used(
    field: Field, spoiled: Callable[[State, State], State]
) -> None:
    await found_register(field.store)
    replica = await field.written(3)
    newest = await field.written(4)
    watched = ReadingStore(field.store)
    claimed = await claim(watched, IGNITE, replica=spoiled(replica, newest))
    assert watched.loaded
    assert dump(claimed.state) == dump(newest)
    assert claimed.state.incarnation == INCARNATION


@pytest.mark.parametrize("history", [3, 5])
async def test_a_replica_from_before_the_history_is_not_used(field: Field, history: int) -> None:
    await found_register(field.store, history=history)
    replica = await field.written(2)
    newest = await field.written(history)
    watched = ReadingStore(field.store)
    claimed = await claim(watched, IGNITE, replica=replica)
    assert watched.loaded
    assert dump(claimed.state) == dump(newest)


async def test_a_replica_just_within_the_history_is_used(field: Field) -> None:
    await found_register(field.store, history=5)
    replica = await field.written(2)
    newest = await field.written(4)
    watched = ReadingStore(field.store)
    claimed = await claim(watched, IGNITE, replica=replica)
    assert not watched.loaded
    assert dump(claimed.state) == dump(newest)


async def test_the_state_of_a_claim_is_that_of_its_head_even_if_the_next_master_is_quick(
    field: Field,
) -> None:
    await found_register(field.store)
    replica = await field.written(2)
    newest = await field.written(2)

    async def the_next_master_commits() -> None:
        await field.written(3)

    interrupted = InterruptedStore(field.store, before_read_of=LOG, happens=the_next_master_commits)
    claimed = await claim(interrupted, IGNITE, replica=replica)
    assert claimed.state.revision == claimed.head.revision
    assert dump(claimed.state) == dump(newest)


async def test_a_history_that_moves_on_while_the_log_is_read_ends_the_claim(field: Field) -> None:
    history = LOG_PAGE + 2
    await found_register(field.store, history=history)
    replica = await field.written(1)
    await field.written(history - 1)

    class BetweenPages(ReadingStore):
        async def read(
            self,
            start: bytes,
            end: bytes | None = None,
            *,
            limit: int | None = None,
            linearizable: bool = True,
        ) -> ReadResult:
            if self.log_reads == 1:
                await field.written(LOG_PAGE + 1)
            return await super().read(start, end, limit=limit, linearizable=linearizable)

    with pytest.raises(SteppedDown):
        await claim(BetweenPages(field.store), IGNITE, replica=replica)

"""A host in step whose session ends in the middle of a commit comes back, and confirms that."""

from __future__ import annotations

import asyncio

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import CommitId, State
from poolcore.wire.codec import to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.ledger import Decision, Ledger
from poolmaster.sessions import Sessions
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from support.registers import INCARNATION, counted, counting, found_register, leading
from support.virtual_clock import VirtualClock, run_in_virtual_time


class Copy:
    """A second copy that takes its time beyond a revision. Implements `ledger.SecondCopy`."""

    def __init__(self, revision: int) -> None:
        self._revision = revision
        self.asked = asyncio.Event()
        self.taken = asyncio.Event()

    async def has(self, state: State) -> bool:
        if state.revision > self._revision:
            self.asked.set()
            await self.taken.wait()
        return True

    def without(self, state: State) -> Decision:
        raise AssertionError("it has not been given up")


def hello(ledger: Ledger, revision: int) -> pb.Hello:
    return pb.Hello(
        host="somebody",
        term=ledger.head.term,
        incarnation=to_proto(INCARNATION),
        last=to_proto(CommitId(ledger.head.term, revision)),
    )


def test_a_replica_that_has_the_commit_which_waits_for_it_is_not_ahead_of_the_store() -> None:
    async def scenario(clock: VirtualClock) -> None:
        store = MemoryStore(MemoryStoreData(), clock=clock)
        await found_register(store)
        async with leading(store, clock=clock) as leader:
            ledger, before = leader.ledger, leader.ledger.state.revision
            sessions = Sessions(ledger, clock=clock)
            ledger.second_copy = copy = Copy(before)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(ledger.write(counting("first")))
                await copy.asked.wait()
                assert ledger.state.revision == before, "nobody is told of it yet"
                assert sessions.cursor(hello(ledger, before + 1)) == before + 1
                with pytest.raises(PoolError) as refused:
                    sessions.cursor(hello(ledger, before + 2))
                assert refused.value.reason is Reason.REPLICA_AHEAD
                copy.taken.set()
            assert counted(ledger.state) == 1

    run_in_virtual_time(scenario)

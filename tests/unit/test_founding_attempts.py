"""Founding a store that others reach, too: what an attempt left under way changes nothing later."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import pytest

from poolcore.model import HostId
from poolcore.replica import State
from poolmaster.layout import load, read_head
from poolmaster.store.contract import OutcomeUnknown, StoreFailed
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from poolmaster.succession import found_successor, prepare_successor
from support.chain_samples import FOUNDED, endless
from support.virtual_clock import VirtualClock

PHANTOM = HostId("6f1d6a5e-0000-4000-8000-00000000000a")
CHAIN = list(islice(endless(FOUNDED), 40))
EARLIER, LATER = CHAIN[19][2], CHAIN[39][2]


async def kept(revision: int, limit: int) -> Sequence[bytes]:
    """The log of a replica that has all of it."""
    after = (data for delta, data, _ in CHAIN if delta.commit.revision > revision)
    return list(islice(after, limit))


def handle() -> MemoryStore:
    return MemoryStore(MemoryStoreData(), clock=VirtualClock())


async def holds(store: MemoryStore, state: State) -> None:
    _, found = await load(store)
    assert found.tables == state.tables
    assert found.last == state.last


TRANSACTIONS = 2
"""That preparing makes, of so little: the mark of the attempt, and all there is."""


@pytest.mark.parametrize("late", range(TRANSACTIONS))
async def test_what_an_attempt_put_there_late_does_not_get_into_the_store(late: int) -> None:
    store = handle()
    store.faults.plan(*[Fate.SERVED] * late, Fate.UNKNOWN_LATE)
    with pytest.raises(OutcomeUnknown):
        await prepare_successor(store, EARLIER, kept)
    begun = await prepare_successor(store, LATER, kept)
    (flight,) = store.faults.late
    landed = flight.land()
    if late:
        assert not landed
        await found_successor(store, LATER, kept, PHANTOM, begun=begun)
        await holds(store, LATER)
    else:
        # It was the mark itself: then this attempt is over, and the next one is not.
        with pytest.raises(StoreFailed):
            await found_successor(store, LATER, kept, PHANTOM, begun=begun)
        await found_successor(store, LATER, kept, PHANTOM)
        await holds(store, LATER)


async def test_a_register_that_lands_late_does_not_open_what_another_attempt_has_emptied() -> None:
    store = handle()
    begun = await prepare_successor(store, EARLIER, kept)
    store.faults.plan(Fate.UNKNOWN_LATE)
    with pytest.raises(OutcomeUnknown):
        await found_successor(store, LATER, kept, PHANTOM, begun=begun)
    again = await prepare_successor(store, LATER, kept)
    (flight,) = store.faults.late
    assert not flight.land()
    assert await read_head(store) is None
    await found_successor(store, LATER, kept, PHANTOM, begun=again)
    await holds(store, LATER)


async def test_a_register_that_landed_is_not_written_again() -> None:
    store = handle()
    store.faults.plan(*[Fate.SERVED] * TRANSACTIONS, Fate.UNKNOWN_APPLIED)
    with pytest.raises(OutcomeUnknown):
        await found_successor(store, LATER, kept, PHANTOM)
    with pytest.raises(StoreFailed):
        await found_successor(store, LATER, kept, PHANTOM)
    await holds(store, LATER)

"""The misfortunes of the memory engine, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from poolmaster.store.contract import (
    Compare,
    OutcomeUnknown,
    StoreFailed,
    StoreUnavailable,
    TransactionTooLarge,
    WatchEvent,
    Write,
)
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from support.virtual_clock import VirtualClock, run_in_virtual_time

EVERYTHING = (b"\x00", b"\xff\xff")

Scenario = Callable[[MemoryStore, MemoryStore, VirtualClock], Coroutine[Any, Any, None]]


def played(scenario: Scenario) -> None:
    """Run the scenario with two handles on one store."""

    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData()
        await scenario(MemoryStore(data, clock=clock), MemoryStore(data, clock=clock), clock)

    run_in_virtual_time(main)


async def content(store: MemoryStore) -> dict[bytes, bytes]:
    return {item.key: item.value for item in (await store.read(*EVERYTHING)).items}


# -- one transaction ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fate", "error", "applied"),
    [
        (Fate.REFUSED, StoreUnavailable, False),
        (Fate.UNKNOWN_APPLIED, OutcomeUnknown, True),
        (Fate.UNKNOWN_LOST, OutcomeUnknown, False),
        (Fate.UNKNOWN_LATE, OutcomeUnknown, False),
        (Fate.COMMIT_FAILED_APPLIED, StoreFailed, True),
        (Fate.COMMIT_FAILED_LOST, StoreFailed, False),
    ],
)
def test_a_fate_meets_one_transaction(fate: Fate, error: type[Exception], applied: bool) -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.plan(Fate.SERVED, fate)
        assert await store.transact([], [Write(b"a", b"1")])
        with pytest.raises(error):
            await store.transact([], [Write(b"b", b"1")])
        assert (b"b" in await content(other)) == applied
        assert await other.transact([], [Write(b"c", b"1")])
        if error is not StoreFailed:
            assert await store.transact([], [Write(b"d", b"1")])

    played(scenario)


@pytest.mark.parametrize("fate", [Fate.COMMIT_FAILED_APPLIED, Fate.COMMIT_FAILED_LOST])
def test_after_a_failed_commit_the_handle_is_of_no_further_use(fate: Fate) -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.plan(fate)
        for call in (
            store.transact([], [Write(b"a", b"1")]),
            store.transact([], []),
            store.read(b"a"),
            store.grant_lease(5),
        ):
            with pytest.raises(StoreFailed):
                await call
        with pytest.raises(StoreFailed):
            await anext(aiter(store.watch(*EVERYTHING, after_version=0)))
        await store.close()

    played(scenario)


def test_a_late_transaction_is_compared_when_it_lands() -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.plan(Fate.UNKNOWN_LATE, Fate.UNKNOWN_LATE, Fate.UNKNOWN_LATE)
        for value in (b"1", b"2", b"3"):
            with pytest.raises(OutcomeUnknown):
                await store.transact([Compare(b"head", None)], [Write(b"head", value)])
        await clock.sleep(3600)
        assert await content(other) == {}
        dropped, winner, loser = store.faults.late

        dropped.drop()
        assert winner.land()
        assert not loser.land(), "head is no longer what it compared"
        assert winner.land(), "asking again does not apply it again"

        assert await content(other) == {b"head": b"2"}
        assert (await other.read(b"head")).version == 1

    played(scenario)


def test_a_late_transaction_that_was_dropped_or_met_a_crash_does_not_land() -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        data = store._data
        store.faults.plan(Fate.UNKNOWN_LATE, Fate.UNKNOWN_LATE)
        for value in (b"1", b"2"):
            with pytest.raises(OutcomeUnknown):
                await store.transact([], [Write(b"head", value)])
        dropped, taken = store.faults.late
        dropped.drop()
        assert not dropped.land()
        data.crash()
        assert not taken.land()
        assert await content(MemoryStore(data, clock=clock)) == {}

    played(scenario)


# -- the way there --------------------------------------------------------------------------------


def test_a_slow_engine_takes_its_time_and_a_cancelled_caller_does_not_stop_the_transaction() -> (
    None
):
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.latency_seconds = 3
        assert await store.transact([], [Write(b"a", b"1")])
        assert clock.monotonic() == 3

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await store.transact([Compare(b"a", b"1")], [Write(b"a", b"2")])
        assert await content(other) == {b"a": b"1"}
        await clock.sleep(2)
        assert await content(other) == {b"a": b"2"}

    played(scenario)


def test_closing_waits_for_what_is_on_its_way() -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.latency_seconds = 3
        async with asyncio.TaskGroup() as group:
            transaction = group.create_task(store.transact([], [Write(b"a", b"1")]))
            await clock.sleep(1)
            await store.close()
            assert clock.monotonic() == 3
            assert await transaction

    played(scenario)


def test_a_handle_that_is_cut_off_hears_nothing_and_catches_up_afterwards() -> None:
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        told: list[tuple[float, WatchEvent]] = []

        async def watch() -> None:
            async for event in store.watch(*EVERYTHING, after_version=0):
                told.append((clock.monotonic(), event))

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            await clock.sleep(1)
            store.faults.cut_off = True
            for call in (store.transact([], [Write(b"b", b"1")]), store.read(b"a")):
                with pytest.raises(StoreUnavailable):
                    await call
            assert await other.transact([], [Write(b"a", b"1")])
            await clock.sleep(1)
            assert told == []
            store.faults.cut_off = False
            await clock.sleep(1)
            watching.cancel()

        assert told == [(2.0, WatchEvent(b"a", b"1", 1))]

    played(scenario)


def test_a_transaction_that_is_under_way_when_the_handle_is_cut_off_has_an_unknown_outcome() -> (
    None
):
    async def scenario(store: MemoryStore, other: MemoryStore, clock: VirtualClock) -> None:
        store.faults.latency_seconds = 2

        async def cut_off() -> None:
            await clock.sleep(1)
            store.faults.cut_off = True

        written, read, _ = await asyncio.gather(
            store.transact([], [Write(b"a", b"1")]),
            store.read(b"a"),
            cut_off(),
            return_exceptions=True,
        )
        assert isinstance(written, OutcomeUnknown)
        assert isinstance(read, StoreUnavailable)
        assert await content(other) == {b"a": b"1"}

    played(scenario)


# -- the engine -----------------------------------------------------------------------------------


def test_a_crash_takes_back_what_was_not_synced() -> None:
    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData()
        store = MemoryStore(data, clock=clock)
        lease = await store.grant_lease(60)
        await store.transact([], [Write(b"synced", b"1"), Write(b"removed", b"1")])
        data.syncs = False
        await store.transact([], [Write(b"kept", b"1")])
        data.sync()
        await store.transact([], [Write(b"lost", b"1"), Write(b"removed", None)])
        await store.transact([], [Write(b"synced", b"2"), Write(b"alive", b"1", lease)])
        assert (await store.read(b"lost")).version == 4

        data.crash()

        with pytest.raises(StoreFailed):
            await store.read(b"synced")
        again = MemoryStore(data, clock=clock)
        assert await content(again) == {b"synced": b"1", b"removed": b"1", b"kept": b"1"}
        assert (await again.read(b"a")).version == 2
        assert not await again.keep_alive(lease)

    run_in_virtual_time(main)


def test_a_crash_loses_nothing_of_an_engine_that_syncs_but_what_was_under_way() -> None:
    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData()
        quick, slow = MemoryStore(data, clock=clock), MemoryStore(data, clock=clock)
        slow.faults.latency_seconds = 1
        await quick.transact([], [Write(b"a", b"1")])

        async def crash() -> None:
            await clock.sleep(0.5)
            data.crash()

        under_way, _ = await asyncio.gather(
            slow.transact([], [Write(b"b", b"1")]), crash(), return_exceptions=True
        )

        assert isinstance(under_way, StoreFailed)
        await clock.sleep(10)
        assert await content(MemoryStore(data, clock=clock)) == {b"a": b"1"}

    run_in_virtual_time(main)


def test_the_limit_of_writes_is_the_engines_to_set() -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(MemoryStoreData(max_transaction_writes=2), clock=clock)
        assert await store.transact([], [Write(b"%d" % number, b"1") for number in range(2)])
        with pytest.raises(TransactionTooLarge):
            await store.transact([], [Write(b"%d" % number, b"1") for number in range(3)])

    run_in_virtual_time(main)


def test_the_same_scenario_runs_the_same_way_each_time() -> None:
    async def main(clock: VirtualClock) -> list[tuple[float, str, bytes]]:
        data = MemoryStoreData()
        story: list[tuple[float, str, bytes]] = []

        async def compete(name: str, latency: float) -> None:
            store = MemoryStore(data, clock=clock)
            store.faults.latency_seconds = latency
            for _ in range(5):
                read = await store.read(b"head")
                old = read.items[0].value if read.items else None
                if await store.transact([Compare(b"head", old)], [Write(b"head", name.encode())]):
                    story.append((clock.monotonic(), name, old or b""))

        async with asyncio.TaskGroup() as group:
            for name, latency in (("a", 0.3), ("b", 0.2), ("c", 0.2), ("d", 0.0)):
                group.create_task(compete(name, latency))
        return story

    first, second = run_in_virtual_time(main), run_in_virtual_time(main)
    assert first == second
    assert len(first) > 5

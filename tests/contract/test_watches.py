"""The store's contract: watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from contract.engines import KEPT_VERSIONS, Engine
from poolmaster.store.contract import Store, WatchEvent, WatchGone, Write

EVERYTHING = (b"\x00", b"\xff\xff")
PATIENCE_SECONDS = 10.0


class Watcher:
    """Collects what a watch tells."""

    def __init__(self) -> None:
        self.events: list[WatchEvent] = []
        self._told = asyncio.Event()

    def tell(self, event: WatchEvent) -> None:
        self.events.append(event)
        self._told.set()

    async def until(self, key: bytes, value: bytes | None) -> list[WatchEvent]:
        """Wait for this change; everything told up to it, it included."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for number, event in enumerate(self.events):
                    if (event.key, event.value) == (key, value):
                        return self.events[: number + 1]
                self._told.clear()
                await self._told.wait()


@asynccontextmanager
async def watching(
    store: Store, start: bytes, end: bytes, *, after_version: int
) -> AsyncIterator[Watcher]:
    watcher = Watcher()

    async def watch() -> None:
        async for event in store.watch(start, end, after_version=after_version):
            watcher.tell(event)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch())
        yield watcher
        task.cancel()


async def first(store: Store, count: int, *, after_version: int) -> list[WatchEvent]:
    """The first events of a watch on everything."""
    events: list[WatchEvent] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with aclosing(store.watch(*EVERYTHING, after_version=after_version)) as watch:  # type: ignore[type-var]
            async for event in watch:
                events.append(event)
                if len(events) == count:
                    break
    return events


async def test_changes_since_a_version_are_told_in_order(store: Store) -> None:
    await store.transact([], [Write(b"old", b"0"), Write(b"a", b"0")])
    await store.transact([], [Write(b"b", b"1")])
    await store.transact([], [Write(b"a", b"2")])
    await store.transact([], [Write(b"b", None)])

    assert await first(store, 2, after_version=2) == [
        WatchEvent(b"a", b"2", version=3),
        WatchEvent(b"b", None, version=4),
    ]


async def test_a_change_by_any_handle_wakes_the_watch(store: Store, other: Store) -> None:
    async with watching(store, *EVERYTHING, after_version=0) as watcher:
        await other.transact([], [Write(b"a", b"1")])
        await watcher.until(b"a", b"1")
        await store.transact([], [Write(b"b", b"1")])
        await watcher.until(b"b", b"1")
        await other.transact([], [Write(b"a", None)])
        told = await watcher.until(b"a", None)

    assert told == [
        WatchEvent(b"a", b"1", version=1),
        WatchEvent(b"b", b"1", version=2),
        WatchEvent(b"a", None, version=3),
    ]


async def test_only_keys_of_the_range_are_told(store: Store) -> None:
    async with watching(store, b"b", b"c", after_version=0) as watcher:
        keys = [b"a", b"b", b"bz", b"c"]
        await store.transact([], [Write(key, b"1") for key in keys])
        await store.transact([], [Write(key, None) for key in keys])
        await store.transact([], [Write(b"b-last", b"1")])
        told = await watcher.until(b"b-last", b"1")

    assert {event.key for event in told} <= {b"b", b"bz", b"b-last"}


async def test_versions_rise_nothing_is_told_twice_and_the_newest_value_always_is(
    store: Store, other: Store
) -> None:
    async def write(handle: Store, key: bytes) -> None:
        for number in range(40):
            await handle.transact([], [Write(key, b"%d" % number), Write(key + b"+", b"x")])

    async with watching(other, *EVERYTHING, after_version=0) as watcher:
        async with asyncio.TaskGroup() as group:
            group.create_task(write(store, b"a"))
            group.create_task(write(other, b"b"))
        await store.transact([], [Write(b"last", b"1")])
        told = await watcher.until(b"last", b"1")

    versions = [event.version for event in told]
    assert versions == sorted(versions)
    assert len({(event.key, event.version) for event in told}) == len(told)
    newest = {event.key: event.value for event in told}
    assert (newest[b"a"], newest[b"b"]) == (b"39", b"39")


async def test_a_watch_from_the_version_of_a_read_continues_it_without_gap(
    store: Store, other: Store
) -> None:
    async def write() -> None:
        for number in range(60):
            await other.transact([], [Write(b"%02d" % number, b"1")])
        await other.transact([], [Write(b"last", b"1")])

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        await asyncio.sleep(0)
        read = await store.read(*EVERYTHING)
        async with watching(store, *EVERYTHING, after_version=read.version) as watcher:
            told = await watcher.until(b"last", b"1")

    keys = [item.key for item in read.items] + [event.key for event in told]
    assert keys == [*(b"%02d" % number for number in range(60)), b"last"]


async def test_a_removed_and_recreated_key_ends_as_it_is(store: Store) -> None:
    for value in (b"1", None, b"2", None, b"3"):
        await store.transact([], [Write(b"a", value)])
    await store.transact([], [Write(b"last", b"1")])
    async with watching(store, *EVERYTHING, after_version=0) as watcher:
        told = await watcher.until(b"last", b"1")

    assert [event.value for event in told if event.key == b"a"][-1] == b"3"
    assert [event.version for event in told] == sorted(event.version for event in told)


async def test_a_watch_from_a_version_no_longer_kept_is_refused(store: Store) -> None:
    await store.transact([], [Write(b"removed", b"1")])
    await store.transact([], [Write(b"removed", None)])
    for number in range(3 * KEPT_VERSIONS):
        await store.transact([], [Write(b"a", b"%d" % number)])

    with pytest.raises(WatchGone) as refusal:
        await first(store, 1, after_version=1)

    oldest = refusal.value.oldest
    assert 2 <= oldest <= 2 * KEPT_VERSIONS + 2
    events = await first(store, 1, after_version=oldest)
    assert events[0].key == b"a"


async def test_a_watch_that_was_left_leaves_the_store_usable(store: Store) -> None:
    await store.transact([], [Write(b"a", b"1")])
    for _ in range(3):
        assert len(await first(store, 1, after_version=0)) == 1
    async with watching(store, *EVERYTHING, after_version=1):
        await asyncio.sleep(0)
    assert await store.transact([], [Write(b"a", b"2")])


async def test_closing_ends_a_watch_that_waits(store: Store, engine: Engine) -> None:
    async def watch() -> list[WatchEvent]:
        return [event async for event in store.watch(*EVERYTHING, after_version=0)]

    await store.transact([], [Write(b"a", b"1")])
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        task = group.create_task(watch())
        await first(store, 1, after_version=0)
        for _ in range(5):
            await asyncio.sleep(0)
        await store.close()
        assert len(await task) <= 1

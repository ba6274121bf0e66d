"""The feed: every acknowledged commit once and in order, from memory, from the log, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import CommitId
from poolmaster.feed import CHUNK, CHUNK_BYTES, RING_BYTES, Commit, Feed
from poolmaster.layout import read_log
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from support.registers import counting, found_register, leading
from support.virtual_clock import VirtualClock

LAST = 400
OLDEST = 101
"""The oldest revision in the log."""


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """A store with 400 commits, of which the last 300 are kept."""
    clock = VirtualClock()
    store = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(store, history=LAST - OLDEST + 1)
    async with leading(store, clock=clock) as leader:
        await asyncio.gather(*(leader.ledger.write(counting("w")) for _ in range(LAST - 1)))
    yield store
    await store.close()


async def commits_of(store: MemoryStore, after: int) -> list[Commit]:
    return [Commit(delta, data) for delta, data in await read_log(store, after=after, limit=LAST)]


async def revisions(feed: Feed, after: int) -> list[int]:
    return [commit.revision for commit in await feed.after(after)]


async def test_a_follower_gets_every_commit_once_wherever_it_begins(store: MemoryStore) -> None:
    published = await commits_of(store, 350)
    for begin in (OLDEST - 1, 200, 349, 350, 399):
        feed = Feed(store, 350, ring=20)
        feed.publish(published)
        cursor, seen = begin, []
        while cursor < LAST:
            found = await revisions(feed, cursor)
            assert len(found) <= CHUNK
            seen += found
            cursor = seen[-1]
        assert seen == list(range(begin + 1, LAST + 1))


async def test_what_is_in_memory_is_not_read_again(store: MemoryStore) -> None:
    feed = Feed(store, 350)
    feed.publish(await commits_of(store, 350))
    store.faults.cut_off = True
    assert await revisions(feed, 390) == list(range(391, LAST + 1))
    with pytest.raises(PoolError) as refused:
        await feed.after(200)
    assert refused.value.reason is Reason.NO_MASTER


async def test_from_before_the_history_there_is_no_silent_gap(store: MemoryStore) -> None:
    feed = Feed(store, LAST)
    assert (await revisions(feed, OLDEST - 1))[0] == OLDEST
    with pytest.raises(PoolError) as refused:
        await feed.after(OLDEST - 2)
    assert refused.value.reason is Reason.HISTORY_GONE
    assert refused.value.params == {"since": str(OLDEST - 2), "oldest": str(OLDEST - 1)}


async def test_what_the_store_has_beyond_the_acknowledged_is_not_handed_out(
    store: MemoryStore,
) -> None:
    feed = Feed(store, 398)
    assert await revisions(feed, 390) == list(range(391, 399))
    waiting = asyncio.ensure_future(feed.after(398))  # noqa: TID251 - awaited below
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    feed.publish(await commits_of(store, 398))
    assert [commit.revision for commit in await waiting] == [399, 400]


async def test_every_waiting_follower_is_woken(store: MemoryStore) -> None:
    feed = Feed(store, 398)
    waiting = [asyncio.ensure_future(feed.after(398)) for _ in range(5)]  # noqa: TID251
    await asyncio.sleep(0)
    feed.publish(await commits_of(store, 398))
    for found in await asyncio.gather(*waiting):
        assert [commit.revision for commit in found] == [399, 400]


async def test_others_run_between_the_followers_turns(store: MemoryStore) -> None:
    feed = Feed(store, 350)
    published = await commits_of(store, 350)
    served: list[int] = []
    some_are_served = asyncio.Event()

    async def follow() -> None:
        cursor = 350
        while cursor < LAST:
            cursor = (await feed.after(cursor))[-1].revision
            served.append(cursor)
            if len(served) == 10:
                some_are_served.set()

    async def publish_on() -> None:
        await some_are_served.wait()
        # It did not have to wait for all thirty.
        assert len(served) < 15
        feed.publish(published[-1:])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(30):
            tasks.create_task(follow())
        await asyncio.sleep(0)
        feed.publish(published[:-1])
        tasks.create_task(publish_on())
    assert served.count(400) == 30


async def test_what_is_offered_goes_at_once_to_who_is_ahead_and_to_nobody_else(
    store: MemoryStore,
) -> None:
    published = await commits_of(store, 350)
    feed = Feed(store, 350)
    ahead = -1
    served: list[tuple[int, int]] = []
    one_is_served, all_are_served = asyncio.Event(), asyncio.Event()

    async def follow(number: int) -> None:
        cursor = 350
        while cursor < LAST:
            cursor = (await feed.after(cursor, ahead=lambda: number == ahead))[-1].revision
            served.append((number, cursor))
            one_is_served.set()
            if len(served) == 30:
                all_are_served.set()

    async with asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(follow(number))
        await asyncio.sleep(0)
        # While they wait already, and in the midst of a round that serves the others.
        ahead = 20
        feed.publish(published[:10])
        await one_is_served.wait()
        feed.offer(published[10:])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (20, LAST) in served
        assert len(served) < 10
        await all_are_served.wait()
        assert {cursor for number, cursor in served if number != 20} == {360}
        feed.publish(published[10:])
    assert sorted(number for number, cursor in served if cursor == LAST) == list(range(30))


async def test_a_bounded_wait_says_whether_there_is_a_commit(store: MemoryStore) -> None:
    feed = Feed(store, 399)
    assert await feed.wait(398, seconds=0.0)
    assert not await feed.wait(399, seconds=0.0)
    feed.publish(await commits_of(store, 399))
    assert await feed.wait(399, seconds=60.0)


async def test_the_end_of_the_mastership_ends_the_wait(store: MemoryStore) -> None:
    feed = Feed(store, LAST)
    waiting = asyncio.ensure_future(feed.wait(LAST))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    feed.close(PoolError(Reason.NO_MASTER, host="phantom", problem="over"))
    for ended in (waiting, feed.wait(LAST), feed.after(LAST)):
        with pytest.raises(PoolError) as refused:
            await ended
        assert refused.value.reason is Reason.NO_MASTER
    # What was acknowledged before is still true.
    assert await revisions(feed, 399) == [400]


async def megabytes(count: int) -> tuple[MemoryStore, list[Commit]]:
    """A store with large commits, and these."""
    clock = VirtualClock()
    store = MemoryStore(MemoryStoreData(), clock=clock)
    await found_register(store)
    async with leading(store, clock=clock) as leader:
        for _ in range(count):
            await leader.ledger.write(counting("w", padding=1_000_000))
    return store, await commits_of(store, 1)


@pytest.mark.parametrize("in_memory", [True, False])
async def test_large_commits_are_handed_out_a_few_at_a_time(in_memory: bool) -> None:
    store, commits = await megabytes(10)
    feed = Feed(store, 1 if in_memory else commits[-1].revision)
    if in_memory:
        feed.publish(commits)
    cursor = 1
    seen: list[Commit] = []
    while cursor < commits[-1].revision:
        found = await feed.after(cursor)
        assert sum(len(commit.data) for commit in found) <= CHUNK_BYTES
        seen += found
        cursor = found[-1].revision
    assert [commit.data for commit in seen] == [commit.data for commit in commits]


async def test_large_commits_do_not_fill_the_memory() -> None:
    store, commits = await megabytes(1)
    (large,) = commits
    feed = Feed(store, 1)
    for revision in range(2, 102):
        delta = replace(large.delta, commit=CommitId(2, revision))
        feed.publish([Commit(delta, large.data)])
    # What is in memory is served without the store.
    store.faults.cut_off = True
    kept = RING_BYTES // len(large.data)
    assert (await feed.after(101 - kept))[0].revision == 102 - kept
    with pytest.raises(PoolError):
        await feed.after(100 - kept)

"""Each revision exactly once and in order, whatever happens to the stream."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from poolclient import Conflict, Cursor, Event, HistoryGone, PoolClient
from poolcore.model import SR, VM, Kind
from poolcore.replica import Put, Remove
from support.fake_server import Fault
from support.fakes import fake_hosts
from support.small_pool import INCARNATION, NFS, WEB1


async def take(events: AsyncIterator[Event], number: int) -> list[Event]:
    """The next events."""
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(number)]


async def test_events_tell_what_became_of_which_object() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        web1 = host.pool.find(Kind.VM, WEB1)
        host.pool.put(web1, name_label="web-1")
        host.pool.remove(web1)
        async with aclosing(pool.events(since=10)) as events:
            renamed, removed = await take(events, 2)
    assert (renamed.revision, renamed.term) == (11, 1)
    assert isinstance(renamed.changes[0], Put)
    assert isinstance(renamed.changes[0].object, VM)
    assert renamed.changes[0].object.name_label == "web-1"
    assert removed.changes == (Remove(Kind.VM, WEB1),)
    assert removed.cursor == Cursor(INCARNATION.uuid, 12)


async def test_events_begin_after_the_present_unless_told_otherwise() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        nfs = host.pool.find(Kind.SR, NFS)
        host.pool.put(nfs, name_label="before")
        async with aclosing(pool.events()) as events, asyncio.TaskGroup() as group:
            first = group.create_task(take(events, 1))
            await host.until_called("Watch")
            host.pool.put(nfs, name_label="after")
            assert [e.revision for e in await first] == [12]


async def test_of_chosen_kinds_only_their_changes_are_told() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        web1, nfs = host.pool.find(Kind.VM, WEB1), host.pool.find(Kind.SR, NFS)
        host.pool.put(nfs, name_label="x")
        host.pool.commit(Put(web1), Put(nfs))
        async with aclosing(pool.events(since=10, kinds=[Kind.VM])) as events:
            (event,) = await take(events, 1)
    assert event.revision == 12
    assert event.changes == (Put(web1),)


async def test_nothing_is_lost_or_told_twice_when_hosts_come_and_go() -> None:
    async with fake_hosts(3) as hosts:
        pool_state = hosts[0].pool
        nfs = pool_state.find(Kind.SR, NFS)
        async with PoolClient.connect(*(h.address for h in hosts)) as pool:
            revisions: list[int] = []

            async def collect() -> None:
                async with aclosing(pool.events(since=10)) as events:
                    async for event in events:
                        revisions.append(event.revision)
                        if event.revision == 40:
                            return

            async with asyncio.TaskGroup() as group:
                group.create_task(collect())
                for n in range(30):
                    pool_state.put(nfs, name_label=f"n{n}")
                    host = hosts[n % 3]
                    if n % 7 == 3:
                        host.break_streams()
                    if n % 10 == 5:
                        await host.stop()
                        await host.start()
                    await asyncio.sleep(0.005)
            assert revisions == list(range(11, 41))


async def test_a_break_is_told_with_its_reason() -> None:
    breaks: list[str] = []
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        events = pool.events(since=10, on_break=breaks.append)
        async with aclosing(events), asyncio.TaskGroup() as group:
            first = group.create_task(take(events, 1))
            await host.until_called("Watch")
            host.break_streams()
            await host.until_called("Watch", 2)
            host.pool.put(host.pool.find(Kind.SR, NFS), name_label="x")
            await first
    assert breaks == ["the host ended the stream"]


async def test_a_host_that_starts_again_is_waited_for() -> None:
    breaks: asyncio.Queue[str] = asyncio.Queue()
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        events = pool.events(since=10, on_break=breaks.put_nowait)
        async with aclosing(events), asyncio.TaskGroup() as group, asyncio.timeout(10):
            first = group.create_task(take(events, 1))
            await host.until_called("Watch")
            await host.stop()
            while "ended the stream" in await breaks.get():
                pass
            host.fault("GetStatus", Fault.NO_MASTER)
            await host.start()
            while "it was told so" not in await breaks.get():
                pass
            host.pool.put(host.pool.find(Kind.SR, NFS), name_label="x")
            await first


async def test_a_gap_is_an_error_not_silence() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        for n in range(5):
            host.pool.put(host.pool.find(Kind.SR, NFS), name_label=f"n{n}")
        host.pool.forget_history()
        with pytest.raises(HistoryGone) as error:
            await take(pool.events(since=12), 1)
        assert error.value.params == {"since": "12", "oldest": "15"}


async def test_a_cursor_of_another_incarnation_is_refused() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        with pytest.raises(Conflict):
            await take(pool.events(since=Cursor("another", 10)), 1)


async def test_leaving_the_loop_ends_the_stream() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        sr = host.pool.find(Kind.SR, NFS)
        assert isinstance(sr, SR)
        host.pool.put(sr, name_label="x")
        async for event in pool.events(since=10):
            assert event.revision == 11
            break

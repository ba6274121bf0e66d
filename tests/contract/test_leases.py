"""The store's contract: leases."""

from __future__ import annotations

import asyncio

import pytest

from contract.engines import Engine
from contract.test_watches import EVERYTHING, watching
from poolmaster.store.contract import Compare, LeaseGone, Store, WatchEvent, Write


async def is_there(store: Store, key: bytes) -> bool:
    return bool((await store.read(key)).items)


async def test_a_key_goes_when_its_lease_ends(store: Store, engine: Engine) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Write(b"alive", b"1", lease), Write(b"kept", b"1")])

    await engine.pass_time(4)
    assert await is_there(store, b"alive")
    await engine.pass_time(1.1, ends=True)

    assert not await is_there(store, b"alive")
    assert [item.key for item in (await store.read(*EVERYTHING)).items] == [b"kept"]
    assert await store.transact([Compare(b"alive", None)], [Write(b"alive", b"2")])
    assert await is_there(store, b"alive")


async def test_keeping_it_alive_prolongs_it(store: Store, engine: Engine) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Write(b"alive", b"1", lease)])
    for _ in range(3):
        await engine.pass_time(4)
        assert await store.keep_alive(lease)
    assert await is_there(store, b"alive")

    await engine.pass_time(5.1, ends=True)

    assert not await store.keep_alive(lease)
    assert not await is_there(store, b"alive")


async def test_another_handle_sees_and_outlives_the_lease(
    store: Store, other: Store, engine: Engine
) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Write(b"alive", b"1", lease)])
    await store.close()

    await engine.pass_time(4)
    assert await is_there(other, b"alive"), "closing is not revoking"
    await engine.pass_time(1.1, ends=True)
    assert not await is_there(other, b"alive")


async def test_revoking_removes_the_keys_at_once_and_may_be_repeated(store: Store) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Write(b"a", b"1", lease), Write(b"b", b"1", lease)])

    await store.revoke(lease)
    await store.revoke(lease)

    assert (await store.read(*EVERYTHING)).items == ()
    assert (await store.read(b"a")).version == 2, "one version for all of its keys"
    assert not await store.keep_alive(lease)


async def test_the_last_write_decides_which_lease_a_key_belongs_to(
    store: Store, engine: Engine
) -> None:
    short, long = await store.grant_lease(2), await store.grant_lease(20)
    keys = [b"freed", b"moved", b"left"]
    await store.transact([], [Write(key, b"1", short) for key in keys])
    await store.transact([], [Write(b"freed", b"2"), Write(b"moved", b"2", long)])

    await engine.pass_time(3, ends=True)
    assert [item.key for item in (await store.read(*EVERYTHING)).items] == [b"freed", b"moved"]
    await engine.pass_time(18, ends=True)
    assert [item.key for item in (await store.read(*EVERYTHING)).items] == [b"freed"]


async def test_a_write_under_an_ended_lease_is_refused_whole(store: Store, engine: Engine) -> None:
    lease = await store.grant_lease(1)
    await engine.pass_time(1.1, ends=True)

    with pytest.raises(LeaseGone):
        await store.transact([], [Write(b"a", b"1"), Write(b"b", b"1", lease)])
    assert not await store.transact([Compare(b"a", b"1")], [Write(b"b", b"1", lease)])

    assert (await store.read(*EVERYTHING)).items == ()
    assert await store.transact([], [Write(b"a", b"1")])


async def test_leases_are_never_taken_for_one_another(store: Store, other: Store) -> None:
    leases = [await handle.grant_lease(5) for handle in (store, other) for _ in range(3)]
    await store.revoke(leases[-1])

    assert await store.grant_lease(5) not in leases
    assert len(set(leases)) == len(leases)


async def test_a_watch_sees_a_lease_end_with_nobody_writing(
    store: Store, other: Store, engine: Engine
) -> None:
    lease = await store.grant_lease(5)
    await store.transact([], [Write(b"alive", b"1", lease)])
    async with watching(other, *EVERYTHING, after_version=0) as watcher:
        await watcher.until(b"alive", b"1")
        await engine.pass_time(5.1, ends=True)
        told = await watcher.until(b"alive", None)

    assert told == [WatchEvent(b"alive", b"1", 1), WatchEvent(b"alive", None, 2)]


async def test_an_ended_lease_and_a_transaction_take_a_version_each(
    store: Store, engine: Engine
) -> None:
    lease = await store.grant_lease(1)
    await store.transact([], [Write(b"alive", b"1", lease)])
    await engine.pass_time(1.1, ends=True)

    assert await store.transact([Compare(b"alive", None)], [Write(b"a", b"1")])

    assert (await store.read(b"a")).items[0].version == 3


async def test_cancelling_leaves_leases_usable(store: Store) -> None:
    async with asyncio.TaskGroup() as group:
        granting = group.create_task(store.grant_lease(5))
        await asyncio.sleep(0)
        granting.cancel()
    lease = await store.grant_lease(5)
    assert await store.keep_alive(lease)

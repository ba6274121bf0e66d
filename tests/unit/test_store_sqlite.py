"""What is particular to the engine `sqlite`: crashes, a full disk, frozen neighbours."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolmaster.store.contract import Compare, StoreUnavailable, Write
from poolmaster.store.sqlite import SqliteOptions, SqliteStore
from support import store_writer

POOL, INCARNATION = "pool-one", "incarnation-one"


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A founded store that nobody has open."""
    path = tmp_path / "store.db"
    await (await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION, shared=True)).close()
    return path


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await opened(path)
    yield store
    await store.close()


async def opened(path: Path, options: SqliteOptions | None = None) -> SqliteStore:
    return await SqliteStore.open(
        path, pool=POOL, incarnation=INCARNATION, shared=True, options=options
    )


@contextmanager
def writer(path: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """The program `store_writer`, killed at the end of the block at the latest."""
    with subprocess.Popen(
        [sys.executable, store_writer.__file__, path, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if what == "leave" else None,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# -- crashes --------------------------------------------------------------------------------------


def killed_after(path: Path, count: int) -> list[tuple[int, int]]:
    """What a writer had acknowledged when it was killed in the middle of its work."""
    with writer(path, "stream") as process:
        assert process.stdout is not None
        text = "".join(process.stdout.readline() for _ in range(count))
        process.kill()
        text += process.stdout.read()
    # It may have been killed in the middle of a line, and what that says nobody knows.
    whole, _, _ = text.rpartition("\n")
    return [(int(line.split()[0]), int(line.split()[1])) for line in whole.splitlines()]


async def test_whatever_was_acknowledged_outlives_kill_9(path: Path) -> None:
    acknowledged: list[tuple[int, int]] = []
    for count in (1, 90, 250):
        acknowledged += killed_after(path, count)
        store = await opened(path)
        found = {item.key for item in (await store.read(b"0", b"9")).items}
        for writer_, number in acknowledged:
            assert found.issuperset(store_writer.keys_of(writer_, number))
        # Those under way are there as a whole, or not at all.
        assert len(found) % store_writer.KEYS_PER_TRANSACTION == 0
        assert (await store.read(b"0")).version == len(found) // store_writer.KEYS_PER_TRANSACTION
        await store.close()


async def test_a_neighbour_goes_on_when_a_process_is_killed(path: Path, store: SqliteStore) -> None:
    acknowledged = await asyncio.to_thread(killed_after, path, 50)

    assert await store.transact([], [Write(b"neighbour", b"1")])
    found = {item.key for item in (await store.read(b"0", b"9")).items}
    assert all(found.issuperset(store_writer.keys_of(*written)) for written in acknowledged)


@pytest.mark.parametrize("neighbour", ["killed", "still at it"])
async def test_a_checkpoint_that_has_begun_does_not_make_the_file_a_damaged_one(
    neighbour: str, path: Path, store: SqliteStore, tmp_path: Path
) -> None:
    values = {b"%d" % number: bytes(2000) for number in range(50)}
    await store.transact([], [Write(key, value) for key, value in values.items()])
    found = path
    if neighbour == "killed":
        found = tmp_path / "left.db"
        copied(path, found)
    begin_checkpoint(found, tmp_path / "whole.db")

    another = await opened(found)
    assert {item.key: item.value for item in (await another.read(b"0", b":")).items} == values
    await another.close()


def begin_checkpoint(path: Path, whole: Path) -> None:
    """Write the first page, which tells how many there are, as a checkpoint does first of all."""
    copied(path, whole)
    with closing(sqlite3.connect(whole)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first_page = [f"if={whole}", f"of={path}", "bs=4096", "count=1", "conv=notrunc"]
    subprocess.run(["dd", *first_page, "status=none"], check=True)


def copied(path: Path, to: Path) -> None:
    """What is on the disk now. By another process: see `sqlite_file`, “never open the file”."""
    for part in ("", "-wal"):
        subprocess.run(["cp", f"{path}{part}", f"{to}{part}"], check=True)


async def test_a_program_that_fails_before_it_closes_its_store_ends_all_the_same(
    path: Path,
) -> None:
    with writer(path, "leave") as process:
        assert await asyncio.to_thread(process.wait, timeout=20) == 1

    store = await opened(path)
    assert (await store.read(b"left")).items[0].value == b"1"
    await store.close()


# -- trouble with the disk and with others --------------------------------------------------------


async def test_a_full_disk_before_commit_costs_the_transaction_and_at_commit_the_store(
    path: Path,
) -> None:
    with writer(path, "full") as process:
        output, _ = process.communicate(timeout=20)

    assert output.splitlines() == [
        "before True",
        "too-much-before-commit StoreUnavailable",
        "afterwards True",
        "too-much-at-commit StoreFailed",
        "after-a-failed-commit StoreFailed",
        "read StoreFailed",
    ]
    store = await opened(path)
    found = [item.key for item in (await store.read(b"a", b"z")).items]
    assert [key for key in found if key != b"too-much-at-commit"] == [b"afterwards", b"before"]
    await store.close()


async def test_a_frozen_neighbour_delays_until_it_ends(path: Path) -> None:
    store = await opened(path, SqliteOptions(busy_seconds=0.05))
    await store.transact([], [Write(b"a", b"1")])
    with writer(path, "stop-in-the-middle") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"

        with pytest.raises(StoreUnavailable):
            await store.transact([], [Write(b"a", b"2")])
        with pytest.raises(StoreUnavailable):
            await store.grant_lease(5)
        assert (await store.read(b"a")).items[0].value == b"1", "reading goes on"

    assert await store.transact([Compare(b"a", b"1")], [Write(b"a", b"3")])
    assert (await store.read(b"a")).version == 2, "what the neighbour had begun is gone"
    await store.close()


# -- cancellation ---------------------------------------------------------------------------------


async def test_a_cancelled_transaction_goes_on_and_is_told_to_watches(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group:
        transaction = group.create_task(store.transact([], [Write(b"a", bytes(1_000_000))]))
        await asyncio.sleep(0)  # it is on its way to the thread
        transaction.cancel()
        with suppress(asyncio.CancelledError):
            await transaction

    async with asyncio.timeout(5):
        async for event in store.watch(b"a", b"b", after_version=0):
            assert event.version == 1
            break


async def test_an_opening_that_was_cancelled_holds_nothing(path: Path) -> None:
    options = SqliteOptions(busy_seconds=5)
    for turns in range(12):
        async with asyncio.TaskGroup() as group:
            opening = group.create_task(
                SqliteStore.open(
                    path, pool=POOL, incarnation=INCARNATION, shared=True, options=options
                )
            )
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await (await opening).close()
    async with asyncio.timeout(5):
        while not await can_be_had_exclusively(path):
            pass  # a thread is still busy closing what it opened


async def can_be_had_exclusively(path: Path) -> bool:
    try:
        await (await SqliteStore.open(path, pool=POOL, incarnation=INCARNATION)).close()
    except PoolError as refusal:
        if refusal.reason is not Reason.STATE_IN_USE:
            raise
        return False
    return True


async def test_a_close_that_was_cancelled_can_be_done_again(path: Path) -> None:
    for turns in range(6):
        store = await opened(path)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(store.transact([], [Write(b"a", bytes(100_000))]))
            await asyncio.sleep(0)
            closing = group.create_task(store.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            closing.cancel()
            assert await writing
        await store.close()
        assert await can_be_had_exclusively(path)


async def test_large_reads_do_not_hold_up_commits(store: SqliteStore) -> None:
    await store.transact([], [Write(b"%05d" % number, bytes(2000)) for number in range(5000)])
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(store.read(b"0", b"9"))
        await asyncio.sleep(0)
        assert await store.transact([], [Write(b"00000", None)])
        assert len((await reading).items) in {4999, 5000}

"""A program that writes to an SQLite store until it is killed, or its disk is full.

    python store_writer.py PATH stream              transaction after transaction, of several keys
    python store_writer.py PATH stop-in-the-middle  takes the write lock and freezes
    python store_writer.py PATH full                its files may grow no further
    python store_writer.py PATH leave               ends without closing the store

Prints a line when something is acknowledged.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from pathlib import Path

KEYS_PER_TRANSACTION = 5


def keys_of(writer: int, number: int) -> list[bytes]:
    return [b"%d/%06d/%d" % (writer, number, part) for part in range(KEYS_PER_TRANSACTION)]


async def _stream(path: Path) -> None:
    from poolmaster.store.contract import Write
    from poolmaster.store.sqlite import SqliteStore

    store = await SqliteStore.open(path, pool=None, incarnation=None, shared=True)
    first = len((await store.read(b"0", b"1")).items) // KEYS_PER_TRANSACTION

    async def write(writer: int) -> None:
        number = first
        while True:
            value = bytes(number % 4000)
            assert await store.transact([], [Write(key, value) for key in keys_of(writer, number)])
            print(writer, number, flush=True)
            number += 1

    async with asyncio.TaskGroup() as group:
        for writer in range(3):
            group.create_task(write(writer))


async def _full(path: Path) -> None:
    from poolmaster.store.contract import StoreError, Write
    from poolmaster.store.sqlite import SqliteStore

    store = await SqliteStore.open(path, pool=None, incarnation=None, shared=True)

    async def attempt(name: bytes, size: int) -> None:
        try:
            applied = await store.transact([], [Write(name, bytes(size))])
            print(name.decode(), applied, flush=True)
        except StoreError as error:
            print(name.decode(), type(error).__name__, flush=True)

    await attempt(b"before", 100)
    # Python ignores SIGXFSZ, so that a write beyond the limit is an error of that write.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    # SQLite writes pages of a transaction that outgrows its cache before COMMIT.
    await attempt(b"too-much-before-commit", 8_000_000)
    await attempt(b"afterwards", 100)
    await attempt(b"too-much-at-commit", 500_000)
    await attempt(b"after-a-failed-commit", 100)
    try:
        await store.read(b"before")
    except StoreError as error:
        print("read", type(error).__name__, flush=True)
    await store.close()


async def _leave(path: Path) -> None:
    from poolmaster.store.contract import Write
    from poolmaster.store.sqlite import SqliteStore

    store = await SqliteStore.open(path, pool=None, incarnation=None, shared=True)
    await store.transact([], [Write(b"left", b"1")])
    raise RuntimeError("left")


def _stop_in_the_middle(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE state SET version = version + 1000")
    print("begun", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    store_path = Path(sys.argv[1])
    match sys.argv[2]:
        case "stream":
            asyncio.run(_stream(store_path))
        case "full":
            asyncio.run(_full(store_path))
        case "leave":
            asyncio.run(_leave(store_path))
        case "stop-in-the-middle":
            _stop_in_the_middle(store_path)

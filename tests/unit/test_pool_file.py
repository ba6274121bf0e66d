"""`pool.json`, as scripts on the host read it."""

import asyncio
import json
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolcore.errors import Reason
from poolmember.place import Master, Told, stopped
from poolmember.pool_file import PoolFile, encode, replace_file, told_before
from support.places import FOLLOWING, LEADING, SEARCHING
from support.small_pool import IGNITE, INCARNATION, PHANTOM, POOL, THEN


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


def said(path: Path) -> dict[str, Any]:
    """What the file says now."""
    plain: dict[str, Any] = json.loads(path.read_text())
    return plain


@asynccontextmanager
async def kept(path: Path) -> AsyncIterator[PoolFile]:
    """The file while a daemon keeps it; closed at the end."""
    file = PoolFile(path)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(file.run())
        yield file
        file.close()


def test_the_keys_are_those_of_the_document() -> None:
    assert json.loads(encode(LEADING)) == {
        "running": True,
        "pid": os.getpid(),
        "host": {"uuid": PHANTOM, "name": "phantom"},
        "pool": {"uuid": POOL, "name": "phantom"},
        "role": "master",
        "master": {"uuid": PHANTOM, "name": "phantom", "address": "127.0.0.1:7443"},
        "term": 2,
        "incarnation": {"counter": 1, "uuid": INCARNATION.uuid},
        "revision": 10,
        "since": "2026-01-01T00:00:00.000Z",
    }
    unknown = json.loads(encode(replace(FOLLOWING, master=Master(IGNITE), incarnation=None)))
    assert unknown["master"] == {"uuid": IGNITE, "name": None, "address": None}
    assert (unknown["role"], unknown["incarnation"]) == ("member", None)
    assert json.loads(encode(SEARCHING))["master"] is None
    ended = json.loads(encode(stopped(LEADING, now=THEN)))
    assert (ended["running"], ended["pid"], ended["role"]) == (False, None, "stopped")


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    """However short or long the names in it are."""
    places = [replace(LEADING, pool_name="p" * size, revision=size) for size in (1, 200_000)]
    texts = {encode(place) for place in places}
    replace_file(path, encode(places[0]))
    over = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not over.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(400):
            replace_file(path, encode(places[number % 2]))
    finally:
        over.set()
        reader.join()
    assert seen <= texts
    assert os.listdir(path.parent) == [path.name]


def test_everybody_may_read_the_file_whatever_the_umask(path: Path) -> None:
    before = os.umask(0o177)
    try:
        replace_file(path, "{}")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_the_file_says_what_was_offered_last(path: Path) -> None:
    async with kept(path) as file:
        for term in range(1, 20):
            file.offer(replace(LEADING, term=term))
        await file.caught_up()
        assert said(path)["term"] == 19
        file.offer(stopped(LEADING, now=THEN))
    assert said(path)["running"] is False


async def test_a_file_that_cannot_be_written_is_said_once_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        async with kept(folder / "pool.json") as file:
            for term in (2, 3):
                file.offer(replace(LEADING, term=term))
                await file.caught_up()
            folder.mkdir()
            file.offer(LEADING)
            await file.caught_up()
            assert (folder / "pool.json").exists()
    (warning,) = caplog.records
    assert vars(warning)["code"] == Reason.STATE_UNWRITABLE
    assert vars(warning)["hint"]


def test_what_a_killed_daemon_has_told_is_read_from_its_file(path: Path) -> None:
    assert told_before(path) == Told(), "there is none"
    replace_file(path, encode(LEADING))
    assert told_before(path) == Told(pool=LEADING.pool, mastership=(INCARNATION.uuid, 2))
    for place in (SEARCHING, FOLLOWING, stopped(LEADING, now=THEN)):
        replace_file(path, encode(place))
        assert told_before(path) == Told(pool=LEADING.pool)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"pool": 7}', '{"pool": {"uuid": "x"}}', "\0"]
)
def test_a_file_that_makes_no_sense_says_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    assert told_before(path) == Told()

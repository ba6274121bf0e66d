"""The engine `sqlite` refuses a file that is not what it should be, and leaves it as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from poolcore import SCHEMA_VERSION
from poolcore.errors import PoolError, Reason
from poolmaster.store.contract import Compare, StoreFailed, Write
from poolmaster.store.sqlite import SqliteOptions, SqliteStore

POOL, INCARNATION = "pool-one", "incarnation-one"


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a store is to be, in a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "store.db"


async def founded(path: Path, *, keys: int = 3) -> None:
    """A store with something in it, closed again."""
    store = await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION)
    await store.transact([], [Write(b"key-%d" % number, bytes(500)) for number in range(keys)])
    await store.close()


def bytes_of(folder: Path) -> dict[str, str]:
    """What is in the folder, but for what holds no data: the index of the WAL, and the lock."""
    return {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in sorted(folder.iterdir())
        if entry.is_file() and not entry.name.endswith(("-shm", ".lock"))
        # Looking at a WAL database may leave an empty WAL behind.
        if not (entry.name.endswith("-wal") and entry.stat().st_size == 0)
    }


async def refusal(
    path: Path,
    *,
    pool: str | None = POOL,
    incarnation: str | None = INCARNATION,
    shared: bool = False,
    options: SqliteOptions | None = None,
) -> PoolError:
    """Why the store is not opened; that nothing was changed is checked on the way."""
    before = bytes_of(path.parent)
    with pytest.raises(PoolError) as refused:
        await SqliteStore.open(
            path, pool=pool, incarnation=incarnation, shared=shared, options=options
        )
    assert bytes_of(path.parent) == before
    assert "<" not in refused.value.message, "a parameter of the message is missing"
    return refused.value


def altered(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


# -- what is in the file --------------------------------------------------------------------------


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _header_only(path: Path) -> None:
    os.truncate(path, 100)


def _damaged_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4 * 4096)
        file.write(b"\xde\xad\xbe\xef" * 512)


def _other_application(path: Path) -> None:
    altered(path, "PRAGMA application_id = 12345")


def _no_state(path: Path) -> None:
    altered(path, "DELETE FROM state")


def _no_pool(path: Path) -> None:
    altered(path, "DELETE FROM meta")


def _no_tables(path: Path) -> None:
    altered(path, "DROP TABLE meta")


def _gone(path: Path) -> None:
    path.unlink()


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        _garbage,
        _empty,
        _half,
        _header_only,
        _damaged_page,
        _other_application,
        _no_state,
        _no_pool,
        _no_tables,
        _gone,
        _folder_instead,
    ],
)
@pytest.mark.parametrize("shared", [False, True])
async def test_a_damaged_file_is_refused(
    path: Path, damage: Callable[[Path], None], shared: bool
) -> None:
    await founded(path, keys=60)
    damage(path)

    assert (await refusal(path, shared=shared)).reason is Reason.STATE_CORRUPT


async def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    await founded(path)
    altered(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    refused = await refusal(path)

    assert refused.reason is Reason.STATE_SCHEMA_TOO_NEW
    assert refused.params["found"] == str(SCHEMA_VERSION + 1)


@pytest.mark.parametrize(
    ("pool", "incarnation"), [("pool-two", INCARNATION), (POOL, "incarnation-two")]
)
async def test_a_store_of_another_pool_or_incarnation_is_refused(
    path: Path, pool: str, incarnation: str
) -> None:
    await founded(path)

    refused = await refusal(path, pool=pool, incarnation=incarnation)

    assert refused.reason is Reason.STATE_OF_ANOTHER_POOL
    assert POOL in refused.message
    assert INCARNATION in refused.message


async def test_whoever_does_not_care_is_told_whose_store_it_is(path: Path) -> None:
    await founded(path)

    store = await SqliteStore.open(path, pool=None, incarnation=None)

    assert (store.pool, store.incarnation) == (POOL, INCARNATION)
    await store.close()


async def test_refusing_does_not_recover_what_a_crash_left(path: Path, tmp_path: Path) -> None:
    store = await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION)
    await store.transact([], [Write(b"in-the-wal", b"1")])
    crashed = tmp_path / "store.db"
    for part in ("", "-wal"):  # a copy of what is on the disk is what a crash leaves
        shutil.copy(f"{path}{part}", f"{crashed}{part}")
    await store.close()

    assert (await refusal(crashed, pool="pool-two")).reason is Reason.STATE_OF_ANOTHER_POOL

    recovered = await SqliteStore.open(crashed, pool=POOL, incarnation=INCARNATION)
    assert (await recovered.read(b"in-the-wal")).items[0].value == b"1"
    await recovered.close()


# -- founding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda path: None, _garbage, _empty, _folder_instead])
async def test_founding_never_overwrites(path: Path, damage: Callable[[Path], None]) -> None:
    await founded(path)
    damage(path)
    before = bytes_of(path.parent)

    with pytest.raises(PoolError) as refused:
        await SqliteStore.found(path, pool="pool-two", incarnation="incarnation-two")

    assert refused.value.reason is Reason.STATE_OF_ANOTHER_POOL
    assert bytes_of(path.parent) == before


async def test_an_interrupted_founding_is_done_again(path: Path) -> None:
    path.with_name("store.db.founding").write_bytes(b"half a file")
    path.with_name("store.db.founding-wal").write_bytes(b"half a WAL")

    await founded(path)

    assert sorted(bytes_of(path.parent)) == ["store.db"]


async def test_a_founded_file_is_for_its_owner_only(path: Path) -> None:
    await founded(path)
    assert os.stat(path).st_mode & 0o777 == 0o600


async def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%41&mode=memory;é" / "store.db"
    path.parent.mkdir()

    await founded(path)

    assert path.is_file()
    store = await SqliteStore.open(path, pool=POOL, incarnation=INCARNATION)
    assert len((await store.read(b"key", b"kez")).items) == 3
    await store.close()


# -- the place ------------------------------------------------------------------------------------


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write everywhere; be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def given_away(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, 65534, 65534)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_cannot_be_written_is_refused(path: Path, what: str) -> None:
    await founded(path)
    given_away(path, path.parent, path.with_name("store.db.lock"))
    protected, mode = (path, 0o400) if what == "file" else (path.parent, 0o555)
    os.chmod(protected, mode)

    with unprivileged():
        refused = await refusal(path)

    os.chmod(path.parent, 0o755)
    assert refused.reason is Reason.STATE_UNWRITABLE


async def test_nothing_is_founded_where_nothing_can_be_written(path: Path) -> None:
    os.chmod(path.parent, 0o555)
    with unprivileged(), pytest.raises(PoolError) as refused:
        await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION)
    os.chmod(path.parent, 0o755)
    assert refused.value.reason is Reason.STATE_UNWRITABLE

    with pytest.raises(PoolError) as refused:
        await SqliteStore.found(path / "no" / "folder", pool=POOL, incarnation=INCARNATION)
    assert refused.value.reason is Reason.STATE_UNWRITABLE


async def test_a_network_file_system_is_refused(path: Path) -> None:
    await founded(path)
    nfs = SqliteOptions(network_filesystem=lambda place: "nfs4")
    linked = SqliteOptions(network_filesystem=lambda place: "cifs" if place == path else None)

    assert (await refusal(path, options=nfs)).reason is Reason.STATE_ON_NETWORK_FILESYSTEM
    assert (await refusal(path, options=linked)).reason is Reason.STATE_ON_NETWORK_FILESYSTEM
    with pytest.raises(PoolError) as refused:
        await SqliteStore.found(
            path.with_name("new.db"), pool=POOL, incarnation=INCARNATION, options=nfs
        )
    assert refused.value.reason is Reason.STATE_ON_NETWORK_FILESYSTEM
    assert sorted(bytes_of(path.parent)) == ["store.db"]


# -- who else has it open -------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
async def test_a_file_that_is_not_shared_by_all_has_one_user(
    path: Path, first: bool, second: bool
) -> None:
    await founded(path)
    quick = SqliteOptions(busy_seconds=0.05)
    store = await SqliteStore.open(path, pool=POOL, incarnation=INCARNATION, shared=first)

    assert (await refusal(path, shared=second, options=quick)).reason is Reason.STATE_IN_USE
    assert await store.transact([], [Write(b"a", b"1")]), "the user is not disturbed"

    await store.close()
    store = await SqliteStore.open(path, pool=POOL, incarnation=INCARNATION, shared=second)
    await store.close()


async def test_a_shared_file_in_use_is_refused_from_another_boot(path: Path) -> None:
    here, elsewhere = SqliteOptions(boot_id="boot-1"), SqliteOptions(boot_id="boot-2")
    store = await SqliteStore.found(
        path, pool=POOL, incarnation=INCARNATION, shared=True, options=here
    )

    assert (await refusal(path, shared=True, options=elsewhere)).reason is Reason.STATE_IN_USE
    assert await store.transact([], [Write(b"a", b"1")])

    await store.close()
    rebooted = await SqliteStore.open(
        path, pool=POOL, incarnation=INCARNATION, shared=True, options=elsewhere
    )
    assert await rebooted.transact([Compare(b"a", b"1")], [Write(b"a", b"2")])
    await rebooted.close()


async def test_a_machine_whose_file_was_taken_over_elsewhere_stops(path: Path) -> None:
    store = await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION, shared=True)
    # What a machine does that sees the file, but not this one's locks.
    altered(path, "UPDATE state SET boot_id = 'boot-2'")

    for _ in range(2):
        with pytest.raises(StoreFailed):
            await store.transact([], [Write(b"a", b"1")])
    with pytest.raises(StoreFailed):
        await store.read(b"a")
    await store.close()


async def test_a_reboot_ends_the_leases_though_its_clock_starts_anew(path: Path) -> None:
    before = SqliteOptions(boot_id="boot-1", clock=lambda: 5000.0)
    after = SqliteOptions(boot_id="boot-2", clock=lambda: 10.0)
    store = await SqliteStore.found(path, pool=POOL, incarnation=INCARNATION, options=before)
    lease = await store.grant_lease(60)
    await store.transact([], [Write(b"alive", b"1", lease), Write(b"kept", b"1")])
    await store.close()

    store = await SqliteStore.open(path, pool=POOL, incarnation=INCARNATION, options=after)

    assert [item.key for item in (await store.read(b"a", b"z")).items] == [b"kept"]
    assert not await store.keep_alive(lease)
    await store.close()

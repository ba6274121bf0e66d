"""The backups that a host writes by itself: when, which are kept, and what a full disk does."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.clock import SystemClock
from poolcore.errors import PoolError, Reason
from poolcore.facts import StoredBackup
from poolcore.model import BackupSchedule, Incarnation, PoolId
from poolcore.replica import Put, State, changed, dump
from poolcore.wire.backup import decode_backup
from poolcore.wire.chain import snapshot_frames
from poolmember.backup_folder import BackupFolder, is_due, newest_first, surplus
from poolmember.backups import Backups
from poolmember.replica_file import ReplicaFile
from support.chain_samples import FOUNDED, INCARNATION, POOL, crowded, endless

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Disk:
    """A replica on disk that can go on, and the folder of its backups."""

    def __init__(self, folder: Path, *, reserve_bytes: int = 0) -> None:
        self.path = folder / "backups"
        self.replica = ReplicaFile.open(folder / "replica.db", pool=POOL, create=True)
        self.state = FOUNDED
        self.replica.replace(list(snapshot_frames(self.state)))
        self._deltas = endless(FOUNDED)
        self.folder = BackupFolder(self.path, folder / "replica.db", reserve_bytes=reserve_bytes)

    def goes_on(self) -> None:
        delta, data, self.state = next(self._deltas)
        self.replica.append([(delta, data)])

    def look(self, now: datetime) -> Path | None:
        return self.folder.look(self.state, now=now)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


# -- writing --------------------------------------------------------------------------------------


def test_a_backup_holds_what_the_replica_holds(disk: Disk) -> None:
    for _ in range(60):
        disk.goes_on()
    file = disk.look(NOW)
    assert file is not None
    assert file.name == "metadata-11111111-20260301T120000Z-1.61.backup"
    assert file.stat().st_mode & 0o777 == 0o600
    found = decode_backup(file.read_bytes(), name=file.name)
    assert dump(found.state) == dump(disk.state)
    assert not found.header.fresh


def test_frames_of_the_replica_are_those_of_its_state(disk: Disk) -> None:
    disk.replica.replace(list(snapshot_frames(crowded(7, 6_000))))
    assert list(disk.replica.frames()) == list(snapshot_frames(crowded(7, 6_000)))


def test_none_is_written_before_it_is_due_or_while_nothing_changes(disk: Disk) -> None:
    assert disk.look(NOW) is not None
    disk.goes_on()
    assert disk.look(NOW + HOUR / 2) is None
    assert disk.look(NOW + HOUR) is not None
    assert disk.look(NOW + 9 * HOUR) is None
    assert [b.revision for b in disk.folder.all()] == [2, 1]


def test_a_clock_that_was_set_back_keeps_none_from_being_written(disk: Disk) -> None:
    assert disk.look(NOW) is not None
    disk.goes_on()
    assert disk.look(NOW - timedelta(days=400)) is not None
    assert [b.revision for b in disk.folder.all()] == [2, 1]


def test_a_pool_that_wants_none_gets_none() -> None:
    pool = replace(FOUNDED.pool, backup=BackupSchedule(interval_minutes=0))
    never = replace(FOUNDED, tables=changed(FOUNDED.tables, [Put(pool)]))
    assert is_due([], FOUNDED, now=NOW)
    assert not is_due([], never, now=NOW)


def test_the_oldest_go_and_files_that_are_none_of_ours_stay(disk: Disk) -> None:
    disk.path.mkdir()
    strange = disk.path / "metadata-strange.backup"
    strange.write_text("kept by hand")
    unfinished = disk.path / "metadata-1.backup.tmp"
    unfinished.write_text("cut short")
    for hours in range(30):
        disk.goes_on()
        assert disk.look(NOW + hours * HOUR) is not None
    # The last ones of both days are among the newest 24.
    assert len(disk.folder.all()) == 24
    assert strange.exists()
    assert not unfinished.exists()


# -- a disk that refuses --------------------------------------------------------------------------


def test_a_disk_that_is_almost_full_is_left_to_others(tmp_path: Path) -> None:
    disk = Disk(tmp_path, reserve_bytes=2**60)
    with pytest.raises(OSError, match="are free"):
        disk.look(NOW)
    assert disk.folder.all() == []


async def test_what_fails_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(tmp_path)
    disk.path.write_text("not a folder")
    backups = Backups(disk.folder, lambda: disk.state, SystemClock())
    with caplog.at_level(logging.INFO):
        await backups.look()
        await backups.look()
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        disk.path.unlink()
        await backups.look()
    assert "backed up as" in caplog.messages[-1]
    assert len(await backups.all()) == 1


async def test_a_fault_in_it_ends_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(BackupFolder):
        def look(self, state: State, *, now: datetime) -> Path | None:
            raise RuntimeError("a fault")

    folder = Faulty(tmp_path / "backups", tmp_path / "replica.db")
    await Backups(folder, lambda: FOUNDED, SystemClock()).look()
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_a_host_without_a_replica_writes_none(tmp_path: Path) -> None:
    folder = BackupFolder(tmp_path / "backups", tmp_path / "replica.db")
    await Backups(folder, lambda: None, SystemClock()).look()
    assert folder.all() == []
    with pytest.raises(PoolError) as caught:
        folder.look(FOUNDED, now=NOW)
    assert caught.value.reason is Reason.STATE_MISSING


# -- which are kept -------------------------------------------------------------------------------


def _stored(
    revision: int, made: datetime, counter: int = 1, incarnation: str = INCARNATION.uuid
) -> StoredBackup:
    return StoredBackup(
        path=str(revision),
        size_bytes=1,
        made=made,
        pool=PoolId(POOL),
        pool_name="",
        incarnation=Incarnation(counter, incarnation),
        revision=revision,
    )


times = st.datetimes(datetime(2026, 1, 1), datetime(2026, 2, 1)).map(  # noqa: DTZ001
    lambda t: t.replace(tzinfo=UTC)
)
histories = st.lists(times, max_size=40).map(
    lambda found: newest_first(_stored(n, made) for n, made in enumerate(found))
)
schedules = st.builds(
    BackupSchedule,
    interval_minutes=st.just(60),
    keep=st.integers(1, 9),
    keep_daily=st.integers(0, 9),
)


@given(histories, schedules)
def test_the_newest_and_the_last_of_each_day_are_kept(
    stored: list[StoredBackup], schedule: BackupSchedule
) -> None:
    gone = surplus(stored, schedule)
    kept = [found for found in stored if found not in gone]
    assert kept[: schedule.keep] == stored[: schedule.keep]
    assert len(kept) <= schedule.keep + schedule.keep_daily
    days = sorted({found.made.date() for found in stored}, reverse=True)[: schedule.keep_daily]
    for day in days:
        last = next(found for found in stored if found.made.date() == day)
        assert last in kept
    assert surplus(kept, schedule) == []


def test_the_order_is_that_of_the_history_and_not_of_the_clocks() -> None:
    old, new = _stored(900, NOW + HOUR), _stored(12, NOW, counter=2)
    assert newest_first([old, new]) == [new, old]


def test_what_a_master_wrote_that_did_not_prevail_takes_no_newer_ones_place() -> None:
    rival, own = _stored(900, NOW, incarnation="rival"), _stored(12, NOW + HOUR)
    assert newest_first([rival, own], {INCARNATION.uuid}) == [own, rival]
    assert surplus([own, rival], BackupSchedule(keep=1, keep_daily=0)) == [rival]

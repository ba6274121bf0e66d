"""What is no sound replica of this pool is refused, and stays as it is, byte for byte."""

import os
import sqlite3
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolcore.wire.chain import snapshot_frames
from poolmember.replica_file import ReplicaFile
from poolmember.replica_schema import APPLICATION_ID
from support.chain_samples import FOUNDED, POOL, crowded, endless

OTHER = PoolId("99999999-9999-4999-8999-999999999999")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound replica, closed."""
    path = tmp_path / "replica.db"
    file = ReplicaFile.open(path, pool=POOL, create=True)
    file.replace(list(snapshot_frames(crowded(5, 500))))
    file.append([(d, raw) for d, raw, _ in islice(endless(crowded(5, 500)), 20)])
    file.close()
    return path


def content(path: Path) -> dict[str, bytes]:
    """The database and its write-ahead log; the -shm file holds nothing durable."""
    names = (path.name, path.name + "-wal")
    return {n: (path.parent / n).read_bytes() for n in names if (path.parent / n).exists()}


def refused(path: Path, *, pool: PoolId = POOL) -> PoolError:
    before = content(path)
    with pytest.raises(PoolError) as caught:
        ReplicaFile.open(path, pool=pool, create=True)
    assert content(path) == before
    return caught.value


def alter(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_another_pools_replica_is_refused(path: Path) -> None:
    error = refused(path, pool=OTHER)
    assert error.reason is Reason.STATE_OF_ANOTHER_POOL
    assert POOL in error.message
    assert OTHER in error.message


def test_a_newer_releases_replica_is_refused(path: Path) -> None:
    alter(path, "PRAGMA user_version = 2")
    assert refused(path).reason is Reason.STATE_SCHEMA_TOO_NEW


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 5000, b"precious notes\n" * 500]
)
def test_what_is_no_database_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert refused(path).reason is Reason.STATE_CORRUPT


def test_another_programs_database_is_refused(path: Path) -> None:
    alter(path, "PRAGMA application_id = 7")
    assert refused(path).reason is Reason.STATE_CORRUPT
    alter(path, f"PRAGMA application_id = {APPLICATION_ID}", "DROP TABLE head")
    assert refused(path).reason is Reason.STATE_CORRUPT


def test_a_truncated_replica_is_refused(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert refused(path).reason is Reason.STATE_CORRUPT


def test_a_damaged_page_is_noticed(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\x5a" * 4096)
    assert refused(path).reason is Reason.STATE_CORRUPT


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log WHERE revision = 12",
        "DELETE FROM log WHERE revision > 20",
        "UPDATE head SET revision = revision - 1",
        "DELETE FROM head",
    ],
)
def test_a_log_that_does_not_lead_to_the_head_is_refused(path: Path, statement: str) -> None:
    alter(path, statement)
    assert refused(path).reason is Reason.STATE_CORRUPT


def test_an_object_that_cannot_be_decoded_is_no_object(path: Path) -> None:
    alter(path, "UPDATE objects SET body = x'ff' WHERE kind = 'vm'")
    file = ReplicaFile.open(path, pool=POOL)
    with pytest.raises(PoolError) as caught:
        file.load()
    file.close()
    assert caught.value.reason is Reason.STATE_CORRUPT
    alter(path, "UPDATE objects SET body = x'ff' WHERE kind = 'pool'")
    assert refused(path).reason is Reason.STATE_CORRUPT


def test_a_network_file_system_is_refused_for_old_and_new_files(path: Path) -> None:
    for file in (path, path.with_name("none.db")):
        with pytest.raises(PoolError) as caught:
            ReplicaFile.open(file, pool=POOL, create=True, filesystem_of=lambda _: "cifs")
        assert caught.value.reason is Reason.STATE_ON_NETWORK_FILESYSTEM
    assert not path.with_name("none.db").exists()


def test_a_missing_replica_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(PoolError) as caught:
        ReplicaFile.open(tmp_path / "replica.db", pool=POOL)
    assert caught.value.reason is Reason.STATE_MISSING
    with pytest.raises(PoolError) as caught:
        ReplicaFile.open_for_reading(tmp_path / "replica.db")
    assert caught.value.reason is Reason.STATE_MISSING
    assert not list(tmp_path.iterdir())


def test_a_directory_that_takes_no_file_is_said_to_be_unwritable() -> None:
    with pytest.raises(PoolError) as caught:
        ReplicaFile.open(Path("/proc/replica.db"), pool=POOL, create=True)
    assert caught.value.reason is Reason.STATE_UNWRITABLE


def test_an_interrupted_creation_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "replica.db.new").write_bytes(b"half")
    (tmp_path / "replica.db.new-wal").write_bytes(b"half")
    file = ReplicaFile.open(tmp_path / "replica.db", pool=POOL, create=True)
    file.replace(list(snapshot_frames(FOUNDED)))
    file.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["replica.db"]


def test_a_killed_daemons_replica_is_refused_without_recovering_it(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from support.chain_samples import POOL, crowded
from poolcore.wire.chain import snapshot_frames
from poolmember.replica_file import ReplicaFile
file = ReplicaFile.open(Path(sys.argv[1]), pool=POOL, create=True)
file.replace(list(snapshot_frames(crowded(1, 20))))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "replica.db"
    subprocess.run([sys.executable, "-c", code, path], check=False, env=with_support())
    assert content(path)["replica.db-wal"]
    assert refused(path, pool=OTHER).reason is Reason.STATE_OF_ANOTHER_POOL
    file = ReplicaFile.open(path, pool=POOL)
    assert file.load() == crowded(1, 20)
    file.close()


def test_a_file_that_may_only_be_read_is_refused_but_can_be_looked_at(path: Path) -> None:
    code = """
import sys
from pathlib import Path
from poolcore.errors import PoolError
from poolmember.replica_file import ReplicaFile
path, pool = Path(sys.argv[1]), sys.argv[2]
ReplicaFile.open_for_reading(path).close()
try:
    ReplicaFile.open(path, pool=pool)
except PoolError as error:
    print(error.reason)
"""
    path.chmod(0o444)
    # Root without its capabilities is bound by permissions like anybody else.
    weak = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    told = subprocess.run(
        [*weak, sys.executable, "-c", code, path, POOL], check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == Reason.STATE_UNWRITABLE


def with_support() -> dict[str, str]:
    """An environment in which a child finds the tests' own modules."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}

"""`poolmember run` on a state that it must not touch: exit 2, the reason, and no byte changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from poolcore.errors import CATALOG, Exit, Reason
from poolmember.state_dir import REPLICA_FILE as REPLICA
from poolmember.state_dir import STORE_FILE as STORE
from support.daemons import POOLMEMBER, Loopback, running_cluster
from support.mounts import needs_own_mounts, with_mounts
from support.wholeness import same_replicas

MASTER, MEMBER, ANOTHER = "master", "member", "another"
NAMES = {MASTER: "phantom", MEMBER: "ignite", ANOTHER: "specter"}
END_SECONDS = 20.0


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, loopback: Loopback) -> Path:
    """State directories of a master and a member of one pool, and of another pool."""
    folder = tmp_path_factory.mktemp("states")

    async def make() -> None:
        async with running_cluster(tmp_path_factory.mktemp("pool"), loopback) as cluster:
            hosts = {what: cluster.local(name) for what, name in NAMES.items()}
            await cluster.start()
            async with hosts[MASTER].api() as api:
                await api.join(hosts[MEMBER].endpoint)
                await api.update_pool(add_tags=["precious"])
            await same_replicas(hosts[MASTER], hosts[MEMBER])
            await cluster.close()
            for what, host in hosts.items():
                shutil.copytree(host.state_dir, folder / what)

    asyncio.run(make())
    return folder


def command_on(state_dir: Path, loopback: Loopback) -> list[str]:
    """The real command on a directory."""
    flags = {
        "name": NAMES.get(state_dir.name, "phantom"),
        "driver": "sim",
        "listen": loopback.endpoint(),
        "state-dir": str(state_dir),
    }
    return [POOLMEMBER, "run", *(f"--{key}={value}" for key, value in flags.items())]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=END_SECONDS)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, but for the locks, which are always empty."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"lock", "store.db.lock"}
    }


def refusal(reason: Reason) -> tuple[str, str]:
    """The beginning of what the catalog says of a reason, and of its remedy."""
    entry = CATALOG[reason]
    return entry.summary.partition("{")[0], entry.remedy.partition("{")[0]


# -- damages --------------------------------------------------------------------------------------

Damage = Callable[[Path, Path], None]
"""Does something to a state directory; the second folder has the state of other hosts."""


def overwritten(name: str, at: int, data: bytes) -> Damage:
    """Some bytes of a file are others."""

    def damage(path: Path, _: Path) -> None:
        with open(path / name, "r+b") as file:
            file.seek(at)
            file.write(data)

    return damage


def truncated(name: str, keep: float) -> Damage:
    """Only the first part of a file is there."""

    def damage(path: Path, _: Path) -> None:
        os.truncate(path / name, int((path / name).stat().st_size * keep))

    return damage


def missing(name: str) -> Damage:
    """A file is not there."""
    return lambda path, _: (path / name).unlink()


def replaced(name: str) -> Damage:
    """A file is that of another pool."""

    def damage(path: Path, others: Path) -> None:
        shutil.copy(others / ANOTHER / name, path / name)

    return damage


def of_a_newer_release(name: str) -> Damage:
    """A database says that a later schema wrote it."""

    def damage(path: Path, _: Path) -> None:
        connection = sqlite3.connect(path / name)
        connection.execute("PRAGMA user_version = 99")
        connection.close()

    return damage


def newer_identity(path: Path, _: Path) -> None:
    """`host.json` says that a later schema wrote it."""
    file = path / "host.json"
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 99'))


GARBAGE = b"\x5a" * 512

REPLICA_CASES = {
    "replica of a newer release": (of_a_newer_release(REPLICA), Reason.STATE_SCHEMA_TOO_NEW),
    "replica without a header": (overwritten(REPLICA, 0, GARBAGE), Reason.STATE_CORRUPT),
    "half a replica": (truncated(REPLICA, 0.5), Reason.STATE_CORRUPT),
    "replica of another pool": (replaced(REPLICA), Reason.STATE_OF_ANOTHER_POOL),
}
CASES = REPLICA_CASES | {
    "identity of a newer release": (newer_identity, Reason.STATE_SCHEMA_TOO_NEW),
    "no identity": (missing("host.json"), Reason.STATE_CORRUPT),
    "identity that is no JSON": (overwritten("host.json", 0, b"]"), Reason.STATE_CORRUPT),
    "store of a newer release": (of_a_newer_release(STORE), Reason.STATE_SCHEMA_TOO_NEW),
    "no store": (missing(STORE), Reason.STATE_CORRUPT),
    "store without a header": (overwritten(STORE, 0, GARBAGE), Reason.STATE_CORRUPT),
    "store with a damaged page": (overwritten(STORE, 8192, GARBAGE * 8), Reason.STATE_CORRUPT),
    "half a store": (truncated(STORE, 0.5), Reason.STATE_CORRUPT),
    "empty store": (truncated(STORE, 0.0), Reason.STATE_CORRUPT),
    "store of another pool": (replaced(STORE), Reason.STATE_OF_ANOTHER_POOL),
}


@pytest.fixture
def state(request: pytest.FixtureRequest, states: Path, tmp_path: Path) -> Path:
    """A copy of the state directory of the host that the parameter names."""
    path: Path = tmp_path / request.param
    shutil.copytree(states / request.param, path)
    return path


@pytest.mark.parametrize(
    ("state", "case"),
    [(MASTER, case) for case in CASES] + [(MEMBER, case) for case in REPLICA_CASES],
    indirect=["state"],
)
def test_a_state_that_is_not_as_it_should_be_stays_as_it_is(
    state: Path, case: str, states: Path, loopback: Loopback
) -> None:
    damage, reason = CASES[case]
    damage(state, states)
    before = contents(state)
    ended = run(command_on(state, loopback))
    assert ended.returncode == Exit.USAGE
    for words in refusal(reason):
        assert words in ended.stderr
    assert str(state) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(state) == before


def test_the_same_states_undamaged_are_fine(
    states: Path, tmp_path_factory: pytest.TempPathFactory, loopback: Loopback
) -> None:
    async def start() -> None:
        async with running_cluster(tmp_path_factory.mktemp("pool"), loopback) as cluster:
            phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
            shutil.copytree(states / MASTER, phantom.state_dir)
            shutil.copytree(states / MEMBER, ignite.state_dir)
            await cluster.start()
            async with phantom.api() as api:
                # The two have been moved, and do not find each other at their new addresses.
                await api.emergency_transition(accept_loss=True)
                assert "precious" in (await api.state()).pool.tags

    asyncio.run(start())


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_is_no_place_for_a_state(below: str, tmp_path: Path, loopback: Loopback) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    ended = run(command_on(file / below, loopback))
    assert ended.returncode == Exit.USAGE
    assert refusal(Reason.STATE_UNWRITABLE)[0] in ended.stderr
    assert file.read_text() == "mine"


@pytest.mark.parametrize("path", ["/proc/poolmember", "/sys/kernel/poolmember"])
def test_where_nothing_can_be_made_there_is_no_state(path: str, loopback: Loopback) -> None:
    ended = run(command_on(Path(path), loopback))
    assert ended.returncode == Exit.USAGE
    assert refusal(Reason.STATE_UNWRITABLE)[0] in ended.stderr
    assert not Path(path).exists()


@needs_own_mounts
@pytest.mark.parametrize("state", [MASTER, MEMBER], indirect=True)
def test_a_read_only_directory_is_refused(state: Path, loopback: Loopback) -> None:
    before = contents(state)
    read_only = with_mounts('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"', str(state))
    ended = run([*read_only, *command_on(state, loopback)])
    assert ended.returncode == Exit.USAGE
    assert refusal(Reason.STATE_UNWRITABLE)[0] in ended.stderr
    assert "Read-only file system" in ended.stderr
    assert contents(state) == before

"""The command `poolmember` as an administrator meets it: what it prints, where, and how it ends."""

import json
import os
import pty
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from poolcore import PRODUCT_VERSION
from poolcore.model import HostId, PoolId, Reservation, TaskId
from poolcore.replica import CommitId, State, dump, snapshot
from poolcore.wire.chain import snapshot_frames
from poolmember.identity import Identity, Member, Membership, Own
from poolmember.replica_file import ReplicaFile
from poolmember.state_dir import StateDir, read_identity
from support.chain_samples import FOUNDED, INCARNATION, POOL, POOL_OBJECT, vm

POOLMEMBER = str(Path(sys.executable).with_name("poolmember"))
HOST = HostId("33333333-3333-4333-8333-333333333333")
OWN = Own(pool=POOL, incarnation=INCARNATION.uuid)
MEMBER = Member(pool=POOL, pool_name="production", addresses=("127.0.0.1:7443", "127.0.0.2:7443"))


def poolmember(
    *arguments: str | Path, code: int = 0, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command with nobody at the terminal; it must end with `code`."""
    done = subprocess.run(
        [POOLMEMBER, *arguments],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environ,
        timeout=20,
    )
    assert done.returncode == code, done.stderr
    return done


def content(path: Path) -> dict[str, bytes]:
    """Every file that holds something durable."""
    return {f.name: f.read_bytes() for f in path.iterdir() if not f.name.endswith("-shm")}


def made(path: Path, membership: Membership | None, state: State | None = FOUNDED) -> Path:
    """The state directory of a host whose daemon has ended."""
    with StateDir.open(path) as directory:
        directory.write_identity(Identity(host=HOST, name="phantom"))
        if isinstance(membership, Own):
            directory.store_path.write_bytes(b"a store")
        if membership is not None and state is not None:
            file = ReplicaFile.open(directory.replica_path, pool=POOL, create=True)
            file.replace(list(snapshot_frames(state)))
            file.close()
        directory.write_identity(Identity(host=HOST, name="phantom", membership=membership))
    return path


def with_vms(*names: str) -> State:
    vms = [replace(vm(n, name), resident_on=HOST) for n, name in enumerate(names)]
    elsewhere = replace(vm(99, "elsewhere"), resident_on=HostId("another"))
    return snapshot(INCARNATION, CommitId(3, 17), [POOL_OBJECT, elsewhere, *vms], [])


# -- help and version -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "version", "inspect", "reset"])
def test_every_command_explains_itself(command: str) -> None:
    assert command in poolmember("--help").stdout
    assert len(poolmember(command, "--help").stdout.splitlines()) > 5


def test_a_wrong_option_is_wrong_usage() -> None:
    assert "--nmae" in poolmember("run", "--nmae", "x", code=2).stderr


def test_version_for_people_and_for_scripts() -> None:
    assert PRODUCT_VERSION in poolmember("version").stdout
    told = json.loads(poolmember("version", "-o", "json").stdout)
    assert told["version"] == PRODUCT_VERSION
    assert {"api_version", "schema_version"} <= set(told)


# -- run: what is refused before anything starts --------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--listen", "127.0.0.1:0"), "--listen"),
        (("--listen", "0.0.0.0:7443"), "--insecure"),
        (("--name", "a\tb"), "--name"),
        (("--driver", "xen"), "--driver"),
        (("--driver", "sim:/none.toml"), "--driver"),
        (("--store", "etcd:127.0.0.1"), "--store"),
        (("--config", "/none.toml"), "--config"),
    ],
)
def test_a_wrong_setting_ends_with_2_before_anything_is_written(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    path = tmp_path / "state"
    done = poolmember("run", "--state-dir", path, *arguments, code=2)
    assert says in done.stderr
    assert done.stdout == ""
    assert not path.exists()


def test_a_wrong_key_in_the_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('lisen = "127.0.0.1"')
    told = poolmember("run", code=2, POOLMEMBER_CONFIG=str(file)).stderr
    assert "did you mean listen?" in told


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("host.json", b"{"),
        ("host.json", b'{"schema_version": 99}'),
        ("store.db", b"precious"),
        ("replica.db", b"precious"),
    ],
)
def test_a_state_that_cannot_be_used_ends_with_2_and_stays(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    done = poolmember("run", "--driver", "sim", "--state-dir", tmp_path, code=2)
    assert str(tmp_path) in done.stderr
    assert content(tmp_path) == {name: data}


def test_a_refusal_is_an_event_when_machines_read_the_log(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_bytes(b"{")
    arguments = ("--driver", "sim", "--state-dir", tmp_path, "--log-format", "json")
    (line,) = poolmember("run", *arguments, code=2).stderr.splitlines()
    event = json.loads(line)
    assert (event["level"], event["code"]) == ("critical", "STATE_CORRUPT")
    assert event["hint"]


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_shows_a_member_from_its_disk_alone(tmp_path: Path) -> None:
    made(tmp_path, MEMBER, with_vms("web1", "db"))
    before = content(tmp_path)
    text = poolmember("inspect", "--state-dir", tmp_path).stdout
    for part in (HOST, "phantom", "production", "127.0.0.2:7443", "17", "3 vm"):
        assert part in text
    told = json.loads(poolmember("inspect", "--state-dir", tmp_path, "-o", "json").stdout)
    assert told == {
        "state_dir": str(tmp_path),
        "host": {"uuid": HOST, "name": "phantom"},
        "membership": {
            "role": "member",
            "pool": POOL,
            "pool_name": "production",
            "addresses": ["127.0.0.1:7443", "127.0.0.2:7443"],
            "store": None,
        },
        "replica": {
            "pool": POOL,
            "incarnation": {"counter": 1, "uuid": INCARNATION.uuid, "forked_at": 0},
            "term": 3,
            "revision": 17,
            "highest_term": 3,
            "objects": {"pool": 1, "vm": 3},
        },
    }
    dumped = poolmember("inspect", "--state-dir", tmp_path, "--dump").stdout
    assert dumped == dump(with_vms("web1", "db"))
    after = content(tmp_path)
    assert after.pop("replica.db-wal", b"") == b""
    assert after == before


def test_inspect_finds_the_directory_as_run_does(tmp_path: Path) -> None:
    made(tmp_path, OWN)
    told = poolmember("inspect", "-o", "json", POOLMEMBER_STATE_DIR=str(tmp_path)).stdout
    assert json.loads(told)["membership"]["role"] == "own"
    file = tmp_path / "config.toml"
    file.write_text('state_dir = "."')
    assert "its own pool" in poolmember("inspect", "--config", file).stdout


def test_inspect_of_a_host_without_a_pool(tmp_path: Path) -> None:
    made(tmp_path, None)
    assert "founds a pool" in poolmember("inspect", "--state-dir", tmp_path).stdout
    told = json.loads(poolmember("inspect", "--state-dir", tmp_path, "-o", "json").stdout)
    assert (told["membership"], told["replica"]) == (None, None)
    poolmember("inspect", "--state-dir", tmp_path, "--dump", code=3)


def test_inspect_of_nothing_says_so(tmp_path: Path) -> None:
    assert "no state" in poolmember("inspect", "--state-dir", tmp_path / "none", code=3).stderr
    done = poolmember("inspect", "--state-dir", tmp_path, "-o", "json", code=3)
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "STATE_MISSING"
    assert error["details"] == {"path": str(tmp_path)}
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_inspect_reads_the_replica_of_a_host_whose_identity_is_corrupt(tmp_path: Path) -> None:
    made(tmp_path, MEMBER, with_vms("web1"))
    (tmp_path / "host.json").write_text("{")
    done = poolmember("inspect", "--state-dir", tmp_path, code=2)
    assert "2 vm" in done.stdout
    assert "host.json" in done.stderr
    assert poolmember("inspect", "--state-dir", tmp_path, "--dump", code=2).stdout


def test_inspect_says_when_the_replica_is_corrupt(tmp_path: Path) -> None:
    made(tmp_path, MEMBER)
    (tmp_path / "replica.db").write_bytes(b"x" * 5000)
    done = poolmember("inspect", "--state-dir", tmp_path, code=2)
    assert "phantom" in done.stdout
    assert "replica.db" in done.stderr


# -- reset ----------------------------------------------------------------------------------------


def test_reset_makes_the_host_its_own_again_and_keeps_what_was(tmp_path: Path) -> None:
    made(tmp_path, MEMBER, with_vms())
    told = poolmember("reset", "--yes", "--state-dir", tmp_path).stderr
    assert "It leaves pool production" in told
    assert read_identity(tmp_path) == Identity(host=HOST, name="phantom")
    assert (tmp_path / "replica.db.retired-1").exists()
    assert "nothing was to be done" in poolmember("reset", "--state-dir", tmp_path).stderr


def test_reset_of_a_host_with_vms_wants_to_hear_that_they_stay(tmp_path: Path) -> None:
    made(tmp_path, MEMBER, with_vms("web1", "db"))
    before = content(tmp_path)
    told = poolmember("reset", "--yes", "--state-dir", tmp_path, code=5).stderr
    assert "2 VMs: db, web1" in told
    assert "--keep-vms" in told
    after = content(tmp_path)
    after.pop("replica.db-wal", None)
    assert after == before
    poolmember("reset", "--yes", "--keep-vms", "--state-dir", tmp_path)
    assert read_identity(tmp_path) == Identity(host=HOST, name="phantom")


def test_reset_abandons_a_reservation(tmp_path: Path) -> None:
    reservation = Reservation(
        pool=PoolId("x"), pool_name="staging", task=TaskId("t"), addresses=("127.0.0.1:1",)
    )
    pool = replace(POOL_OBJECT, reservation=reservation)
    made(tmp_path, OWN, snapshot(INCARNATION, CommitId(1, 2), [pool], []))
    told = poolmember("reset", "--yes", "--state-dir", tmp_path).stderr
    assert "taken in by pool staging" in told
    assert (tmp_path / "store.db.retired-1").read_bytes() == b"a store"
    assert not (tmp_path / "store.db").exists()


def test_reset_asks_and_does_nothing_where_nobody_answers(tmp_path: Path) -> None:
    made(tmp_path, MEMBER, with_vms())
    before = content(tmp_path)
    assert "--yes" in poolmember("reset", "--state-dir", tmp_path, code=2).stderr
    after = content(tmp_path)
    after.pop("replica.db-wal", None)
    assert after == before


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_reset_does_what_the_person_at_the_terminal_says(
    tmp_path: Path, answer: str, code: int
) -> None:
    made(tmp_path, MEMBER, with_vms())
    person, terminal = pty.openpty()
    try:
        os.write(person, answer.encode())
        done = subprocess.run(
            [POOLMEMBER, "reset", "--state-dir", tmp_path],
            check=False,
            capture_output=True,
            text=True,
            stdin=terminal,
            timeout=20,
        )
    finally:
        os.close(person)
        os.close(terminal)
    assert done.returncode == code
    assert "Go on?" in done.stderr
    identity = read_identity(tmp_path)
    assert identity is not None
    assert identity.membership == (MEMBER if code else None)


def test_reset_waits_for_no_running_daemon(tmp_path: Path) -> None:
    made(tmp_path, MEMBER)
    with StateDir.open(tmp_path):
        assert (
            "already runs" in poolmember("reset", "--yes", "--state-dir", tmp_path, code=2).stderr
        )


def test_reset_starts_over_where_the_identity_cannot_be_read(tmp_path: Path) -> None:
    made(tmp_path, OWN)
    (tmp_path / "host.json").write_text("{")
    poolmember("reset", "--yes", "--state-dir", tmp_path, code=5)
    told = poolmember("reset", "--yes", "--keep-vms", "--state-dir", tmp_path).stderr
    assert "new uuid" in told
    assert read_identity(tmp_path) is None
    assert (tmp_path / "host.json.retired-1").read_text() == "{"


def test_reset_keeps_the_identity_of_a_host_whose_databases_are_gone(tmp_path: Path) -> None:
    made(tmp_path, OWN)
    for name in ("store.db", "replica.db"):
        (tmp_path / name).unlink()
    poolmember("reset", "--yes", "--keep-vms", "--state-dir", tmp_path)
    assert read_identity(tmp_path) == Identity(host=HOST, name="phantom")


def test_reset_leaves_a_newer_releases_state_alone(tmp_path: Path) -> None:
    made(tmp_path, MEMBER)
    (tmp_path / "host.json").write_text('{"schema_version": 99}')
    told = poolmember("reset", "--yes", "--keep-vms", "--state-dir", tmp_path, code=2).stderr
    assert "newer release" in told
    assert (tmp_path / "replica.db").exists()


def test_reset_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    poolmember("reset", "--yes", "--state-dir", tmp_path, code=3)
    assert not list(tmp_path.iterdir())
    shutil.rmtree(tmp_path)
    poolmember("reset", "--yes", "--state-dir", tmp_path, code=3)

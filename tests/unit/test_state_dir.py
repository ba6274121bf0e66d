import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.errors import Exit, PoolError, Reason
from poolcore.model import PoolId
from poolmember.identity import (
    Document,
    Identity,
    Member,
    Membership,
    Own,
    as_started,
    decode,
    encode,
    new_identity,
)
from poolmember.state_dir import DATABASES, StateDir, read_identity

POOL = PoolId("11111111-1111-4111-8111-111111111111")
INCARNATION = "22222222-2222-4222-8222-222222222222"
OWN = Own(pool=POOL, incarnation=INCARNATION)
MEMBER = Member(pool=POOL, pool_name="production", addresses=("127.0.0.1:7443",))

uuids = st.uuids().map(str)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
stores = st.none() | texts
memberships: st.SearchStrategy[Membership] = st.one_of(
    st.builds(Own, pool=uuids.map(PoolId), incarnation=uuids, store=stores),
    st.builds(
        Member,
        pool=uuids.map(PoolId),
        pool_name=texts,
        addresses=st.lists(texts, max_size=3).map(tuple),
        store=stores,
    ),
)
identities = st.builds(
    Identity, host=uuids, name=texts, membership=st.none() | memberships, witness=st.booleans()
)
renames = st.lists(st.sampled_from([(n, f"{n}.retired-7") for n in DATABASES]), unique=True)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a directory, by name."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}


def written(path: Path, identity: Identity, *files: str) -> Identity:
    """A directory as a daemon leaves it behind: with that identity, and databases of a kind."""
    with StateDir.open(path) as directory:
        for name in files:
            (path / name).write_bytes(name.encode())
        directory.write_identity(identity)
    return identity


def refused(path: Path) -> PoolError:
    before = content(path) if path.is_dir() else {}
    with pytest.raises(PoolError) as caught:
        StateDir.open(path)
    assert (content(path) if path.is_dir() else {}) == before
    return caught.value


@given(identities, renames)
def test_identity_comes_back_unchanged(identity: Identity, retire: list[tuple[str, str]]) -> None:
    document = Document(identity, tuple(retire))
    assert decode(Path("host.json"), encode(document).encode()) == document


def test_a_missing_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with StateDir.open(path) as directory:
        assert directory.identity is None
        assert directory.socket_path == path / "api.sock"
        assert path.stat().st_mode & 0o777 == 0o700
        identity = new_identity("phantom")
        directory.write_identity(identity)
        assert (path / "host.json").stat().st_mode & 0o777 == 0o600
    with StateDir.open(path) as again:
        assert again.identity == identity


def test_an_empty_directory_is_fresh_even_with_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "host.toml").write_text("")
    (tmp_path / "lost+found").mkdir()
    with StateDir.open(tmp_path) as directory:
        assert directory.identity is None


def test_one_daemon_per_directory(tmp_path: Path) -> None:
    with StateDir.open(tmp_path):
        assert refused(tmp_path).reason is Reason.STATE_IN_USE
    StateDir.open(tmp_path).close()


def test_a_directory_is_free_again_after_its_daemon_was_killed(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from poolmember.state_dir import StateDir
directory = StateDir.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert refused(tmp_path).reason is Reason.STATE_IN_USE
        holder.kill()
    StateDir.open(tmp_path).close()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    directory = StateDir.open(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        directory.close()
        StateDir.open(tmp_path).close()
        child.kill()


def test_a_directory_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(PoolError) as caught:
        StateDir.open(path, filesystem_of=lambda _: "nfs4")
    assert caught.value.reason is Reason.STATE_ON_NETWORK_FILESYSTEM
    assert not path.exists()


# Even root cannot create files below /proc.
@pytest.mark.parametrize("path", ["/proc/poolmember", "/proc/self/fdinfo"])
def test_an_unwritable_directory_is_refused(path: str) -> None:
    with pytest.raises(PoolError) as caught:
        StateDir.open(Path(path))
    assert caught.value.reason is Reason.STATE_UNWRITABLE
    assert path in caught.value.message


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert refused(path).reason is Reason.STATE_UNWRITABLE
    assert (tmp_path / "file").read_text() == "precious"


GOOD = {
    "schema_version": 1,
    "host": "33333333-3333-4333-8333-333333333333",
    "name": "phantom",
    "membership": None,
}
BAD_MEMBERSHIP: dict[str, object] = {
    "role": "member",
    "pool": POOL,
    "pool_name": "p",
    "addresses": [],
    "store": None,
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\0" * 100,
        json.dumps({}),
        json.dumps(GOOD | {"host": "phantom"}),
        json.dumps(GOOD | {"host": None}),
        json.dumps(GOOD | {"name": ""}),
        json.dumps(GOOD | {"schema_version": "1"}),
        json.dumps(GOOD | {"schema_version": 0}),
        json.dumps(GOOD | {"membership": "own"}),
        json.dumps(GOOD | {"membership": BAD_MEMBERSHIP | {"role": "king"}}),
        json.dumps(GOOD | {"membership": BAD_MEMBERSHIP | {"pool": "x"}}),
        json.dumps(GOOD | {"membership": BAD_MEMBERSHIP | {"addresses": None}}),
        json.dumps(GOOD | {"retire": [["store.db", "../../etc/passwd"]]}),
        json.dumps(GOOD | {"retire": [["host.json"]]}),
    ],
)
def test_a_corrupt_identity_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "host.json").write_text(text)
    assert refused(tmp_path).reason is Reason.STATE_CORRUPT
    assert not (tmp_path / "lock").exists(), "not even a trace of having looked"


def test_an_identity_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(json.dumps({"schema_version": 2, "shape": "another"}))
    error = refused(tmp_path)
    assert error.reason is Reason.STATE_SCHEMA_TOO_NEW
    assert error.params["found"] == "2"


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "replica.db"])
def test_databases_without_an_identity_are_never_founded_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    error = refused(tmp_path)
    assert error.reason is Reason.STATE_CORRUPT
    assert "host.json" in error.message


def test_an_own_pool_without_its_store_is_refused(tmp_path: Path) -> None:
    written(tmp_path, replace(new_identity("phantom"), membership=OWN), "store.db", "replica.db")
    (tmp_path / "store.db").unlink()
    error = refused(tmp_path)
    assert error.reason is Reason.STATE_CORRUPT
    assert "store.db" in error.message


def test_an_own_pool_with_a_shared_store_has_none_of_its_own(tmp_path: Path) -> None:
    own = replace(OWN, store="sqlite:///srv/pool.db")
    identity = written(tmp_path, replace(new_identity("phantom"), membership=own))
    with StateDir.open(tmp_path) as directory:
        assert directory.identity == identity


def test_a_member_may_lose_its_replica(tmp_path: Path) -> None:
    identity = written(tmp_path, replace(new_identity("ignite"), membership=MEMBER))
    assert read_identity(tmp_path) == identity
    StateDir.open(tmp_path).close()


def test_an_interrupted_first_write_leaves_a_fresh_directory(tmp_path: Path) -> None:
    (tmp_path / "host.json.tmp").write_text('{"schema')
    with StateDir.open(tmp_path) as directory:
        assert directory.identity is None
        directory.write_identity(new_identity("phantom"))
    assert not (tmp_path / "host.json.tmp").exists()


def test_changing_pools_retires_databases_with_all_their_parts(tmp_path: Path) -> None:
    identity = replace(new_identity("ignite"), membership=OWN)
    files = ("store.db", "store.db-wal", "replica.db", "replica.db-shm")
    written(tmp_path, identity, *files)
    with StateDir.open(tmp_path) as directory:
        directory.write_identity(replace(identity, membership=MEMBER), retire=DATABASES)
    assert set(content(tmp_path)) == {
        "host.json",
        "lock",
        "store.db.retired-1",
        "store.db.retired-1-wal",
        "replica.db.retired-1",
        "replica.db.retired-1-shm",
    }
    assert read_identity(tmp_path) == replace(identity, membership=MEMBER)


def test_the_last_three_retired_are_kept(tmp_path: Path) -> None:
    identity = replace(new_identity("ignite"), membership=MEMBER)
    written(tmp_path, identity)
    with StateDir.open(tmp_path) as directory:
        for n in range(1, 13):
            (tmp_path / "replica.db").write_text(str(n))
            (tmp_path / "replica.db-wal").write_text(str(n))
            directory.retire("replica.db")
        directory.retire("replica.db")
    assert {n: t for n, t in content(tmp_path).items() if "retired" in n} == {
        f"replica.db.retired-{n}{part}": str(n).encode()
        for n in (10, 11, 12)
        for part in ("", "-wal")
    }


def test_a_store_in_use_by_the_new_membership_is_not_retired(tmp_path: Path) -> None:
    identity = replace(new_identity("phantom"), membership=OWN)
    written(tmp_path, identity, "store.db")
    with StateDir.open(tmp_path) as directory, pytest.raises(ValueError, match=r"uses store\.db"):
        directory.retire("store.db")
    assert read_identity(tmp_path) == identity


def test_a_founding_that_was_interrupted_is_retired(tmp_path: Path) -> None:
    identity = written(tmp_path, new_identity("phantom"), "store.db", "replica.db")
    with StateDir.open(tmp_path) as directory:
        assert directory.identity == identity
    assert not (tmp_path / "store.db").exists()
    assert (tmp_path / "store.db.retired-1").exists()
    assert (tmp_path / "replica.db.retired-1").exists()


def crash_points(path: Path, files: tuple[str, ...]) -> list[dict[str, bytes]]:
    """What a crash could leave between any two file operations of a change of membership.

    The operations are the documented ones: the identity with its renames is written, databases
    are renamed part by part, the identity is written without them.
    """
    with StateDir.open(path) as directory:
        assert directory.identity is not None
        member = replace(directory.identity, membership=MEMBER)
    renames = [(f, f.replace(".db", ".db.retired-1")) for f in files]
    now = content(path)
    retire = tuple((n, f"{n}.retired-1") for n in DATABASES if n in files)
    states = [dict(now)]
    now["host.json"] = encode(Document(member, retire)).encode()
    states.append(dict(now))
    for source, target in renames:
        now[target] = now.pop(source)
        states.append(dict(now))
    now["host.json"] = encode(Document(member)).encode()
    return [*states, dict(now)]


def test_a_crash_at_any_point_of_a_change_leaves_the_old_or_leads_to_the_new(
    tmp_path: Path,
) -> None:
    files = ("store.db", "store.db-wal", "replica.db", "replica.db-wal")
    origin = tmp_path / "origin"
    own = written(origin, replace(new_identity("ignite"), membership=OWN), *files)
    before, *points = crash_points(origin, files)
    for n, point in enumerate([before, *points]):
        path = tmp_path / str(n)
        path.mkdir()
        for name, data in point.items():
            (path / name).write_bytes(data)
        with StateDir.open(path) as directory:
            identity = directory.identity
        if point == before:
            assert (identity, content(path)) == (own, before)
        else:
            assert identity == replace(own, membership=MEMBER)
            assert content(path) == points[-1]


def test_the_change_happens_as_the_crash_points_say(tmp_path: Path) -> None:
    files = ("store.db", "store.db-wal", "replica.db", "replica.db-wal")
    identity = written(tmp_path, replace(new_identity("ignite"), membership=OWN), *files)
    *_, after = crash_points(tmp_path, files)
    with StateDir.open(tmp_path) as directory:
        directory.write_identity(replace(identity, membership=MEMBER), retire=DATABASES)
    assert content(tmp_path) == after


def test_killed_at_any_moment_a_change_of_pools_is_whole(tmp_path: Path) -> None:
    code = """
import itertools, sys
from dataclasses import replace
from pathlib import Path
from poolmember.identity import Member, Own
from poolmember.state_dir import DATABASES, StateDir
path = Path(sys.argv[1])
pool = "11111111-1111-4111-8111-111111111111"
with StateDir.open(path) as directory:
    print("go", flush=True)
    for n in itertools.count():
        own = replace(directory.identity, membership=None)
        directory.write_identity(own, retire=DATABASES)
        (path / "store.db").write_text("x")
        (path / "replica.db").write_text("x")
        directory.write_identity(replace(own, membership=Own(pool=pool, incarnation=pool)))
        member = Member(pool=pool, pool_name=str(n), addresses=())
        directory.write_identity(replace(own, membership=member), retire=DATABASES)
"""
    written(tmp_path, new_identity("ignite"))
    for n in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"go\n"
            try:
                child.wait(0.01 + 0.007 * n)
            except subprocess.TimeoutExpired:
                child.kill()
        with StateDir.open(tmp_path) as directory:
            assert directory.identity is not None
            membership = directory.identity.membership
            databases = {name for name in DATABASES if (tmp_path / name).exists()}
            assert databases == (set(DATABASES) if isinstance(membership, Own) else set())


def test_starting_over_makes_a_corrupt_directory_fresh(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text("{")
    (tmp_path / "store.db").write_text("x")
    with StateDir.open_for_reset(tmp_path) as directory:
        assert directory.identity is None
        directory.start_over()
    with StateDir.open(tmp_path) as directory:
        assert directory.identity is None
    assert content(tmp_path) == {
        "lock": b"",
        "host.json.retired-1": b"{",
        "store.db.retired-1": b"x",
    }


def test_reset_keeps_an_identity_whose_store_is_gone(tmp_path: Path) -> None:
    identity = written(tmp_path, replace(new_identity("phantom"), membership=OWN), "store.db")
    os.unlink(tmp_path / "store.db")
    with StateDir.open_for_reset(tmp_path) as directory:
        assert directory.identity == identity


def test_nobody_starts_over_below_a_newer_release(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(PoolError) as caught:
        StateDir.open_for_reset(tmp_path)
    assert caught.value.reason is Reason.STATE_SCHEMA_TOO_NEW


@pytest.mark.parametrize("membership", [OWN, MEMBER], ids=["own", "member"])
@pytest.mark.parametrize("witness", [True, False])
def test_a_host_of_a_pool_stays_the_witness_or_hypervisor_that_it_came_as(
    membership: Membership, witness: bool
) -> None:
    identity = replace(new_identity("ignite", witness=witness), membership=membership)
    assert as_started(identity, name="ember", witness=witness) == replace(identity, name="ember")
    with pytest.raises(PoolError) as refused:
        as_started(identity, name="ignite", witness=not witness)
    error = refused.value
    assert (error.reason, error.entry.exit) == (Reason.WITNESS_CHANGED, Exit.USAGE)
    assert f"Start it as it was: {'with' if witness else 'without'} --witness." in error.remedy
    assert "`poolmember reset`" in error.remedy


def test_a_host_without_a_pool_may_become_a_witness() -> None:
    identity = new_identity("ignite")
    assert as_started(identity, name="ignite", witness=True) == replace(identity, witness=True)


def test_an_identity_of_before_there_were_witnesses_is_of_none() -> None:
    plain = json.loads(encode(Document(new_identity("ignite"))))
    del plain["witness"]
    assert not decode(Path("host.json"), json.dumps(plain).encode()).identity.witness

"""What a host puts aside before it takes the state of a pool that has gone on without it."""

import asyncio
import json
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.facts import Recovery
from poolcore.model import VM, Ancestor, HostId, Incarnation, Kind, Object
from poolcore.replica import Change, CommitId, Delta, Put, Remove, State, apply, snapshot
from poolcore.requests import RequestRecord
from poolcore.wire.chain import encode_delta, snapshot_frames
from poolmanager.v1 import agent_service_pb2 as pb
from poolmember.identity import Identity
from poolmember.recovery import recovery_name, save_beyond
from poolmember.recovery_folder import PAGE_BYTES, RecoveryFolder
from poolmember.recovery_service import recovery_functions
from poolmember.reset import Outcome, reset
from poolmember.session import Follower
from poolmember.state_dir import RECOVERY_FOLDER, StateDir
from support.chain_samples import INCARNATION, POOL, POOL_OBJECT, vm
from support.memory_replica import MemoryReplica, ReplicaContent
from support.virtual_clock import VirtualClock

HOST = HostId("33333333-3333-4333-8333-333333333333")
ANCESTOR = Ancestor(INCARNATION.counter, INCARNATION.uuid)
NEXT = Incarnation(2, "44444444-4444-4444-8444-444444444444", forked_at=3)
WEB, DB, NEW = vm(1, "web"), vm(2, "db"), vm(3, "new")
NAME = recovery_name(INCARNATION)


class Chain:
    """A chain of commits, and the states that they lead to."""

    def __init__(self, *first: Object) -> None:
        self.states = [snapshot(INCARNATION, CommitId(0, 0), (), ())]
        self.deltas: list[Delta] = []
        self.commit(Put(POOL_OBJECT), *map(Put, first))

    def commit(self, *changes: Change) -> None:
        last = self.states[-1]
        commit = CommitId(1, last.revision + 1)
        request = RequestRecord(f"0-nonce{commit.revision:08}", b"hash", commit.revision)
        delta = Delta(INCARNATION.uuid, commit, last.last, changes, request)
        self.deltas.append(delta)
        self.states.append(apply(last, delta))

    async def log(self, after: int, limit: int) -> list[Delta]:
        return [d for d in self.deltas if d.commit.revision > after][:limit]


def beyond() -> Chain:
    """Three commits that everybody has, and four that only this host has."""
    chain = Chain(WEB, DB)
    chain.commit(Put(replace(WEB, name_description="one")))
    chain.commit(Put(replace(WEB, name_description="two")))
    chain.commit(Put(replace(WEB, name_description="lost")))
    chain.commit(Put(NEW), Remove(Kind.VM, DB.uuid))
    chain.commit(Put(replace(NEW, name_label="newer")))
    chain.commit(Remove(Kind.VM, NEW.uuid))
    return chain


def saved(folder: RecoveryFolder, chain: Chain, *, after: int = 3, **options: Any) -> int:
    return asyncio.run(
        save_beyond(
            folder,
            chain.log,
            after=after,
            host=HOST,
            pool=POOL,
            incarnation=INCARNATION,
            **options,
        )
    )


def lines(folder: RecoveryFolder) -> list[dict[str, Any]]:
    found, more = asyncio.run(folder.read(NAME, 0))
    assert more is None
    return [json.loads(line) for line in found]


@pytest.fixture
def folder(tmp_path: Path) -> RecoveryFolder:
    return RecoveryFolder(tmp_path / RECOVERY_FOLDER)


# -- what is saved ---------------------------------------------------------------------------------


def test_each_change_is_told_with_what_the_object_was_before(folder: RecoveryFolder) -> None:
    assert saved(folder, beyond()) == 4
    told = lines(folder)
    assert [(line["revision"], line["object"]["name_label"]) for line in told] == [
        (4, "web"), (5, "new"), (5, "db"), (6, "newer"), (7, "newer"),
    ]  # fmt: skip
    assert {line["before_from"] for line in told} == {"log"}
    web, new, db, newer, gone = told
    assert web["before"]["name_description"] == "two"
    assert web["after"]["name_description"] == "lost"
    assert web["request_id"] == "0-nonce00000004"
    assert (new["before"], db["after"], gone["after"]) == (None, None, None)
    assert newer["before"]["name_label"] == "new"
    assert (web["pool"], web["host"], web["incarnation"]["uuid"]) == (POOL, HOST, INCARNATION.uuid)


def test_what_the_history_does_not_tell_is_asked_of_the_pool(folder: RecoveryFolder) -> None:
    chain = beyond()
    chain.deltas = chain.deltas[3:]
    asked: list[set[tuple[Kind, str]]] = []

    def known(keys: set[tuple[Kind, str]]) -> dict[tuple[Kind, str], Object]:
        asked.append(keys)
        return {(Kind.VM, WEB.uuid): replace(WEB, name_description="now")}

    saved(folder, chain, known=known)
    web, new, db, newer, _ = lines(folder)
    assert asked == [{(Kind.VM, WEB.uuid), (Kind.VM, DB.uuid), (Kind.VM, NEW.uuid)}]
    assert (web["before"]["name_description"], web["before_from"]) == ("now", "pool")
    assert (new["before"], new["before_from"]) == (None, None)
    assert (db["before"], db["before_from"]) == (None, None)
    assert (newer["before"]["name_label"], newer["before_from"]) == ("new", "log")


def test_where_nothing_is_beyond_nothing_is_saved(folder: RecoveryFolder, tmp_path: Path) -> None:
    assert saved(folder, beyond(), after=7) == 0
    assert not list(tmp_path.iterdir())
    assert asyncio.run(folder.all()) == ()


def test_saving_again_adds_only_what_is_new(folder: RecoveryFolder) -> None:
    chain = beyond()
    shorter = Chain()
    shorter.deltas = chain.deltas[:5]
    saved(folder, shorter)
    saved(folder, chain)
    first = lines(folder)
    saved(folder, shorter)
    assert lines(folder) == first
    assert [line["revision"] for line in first] == [4, 5, 5, 6, 7]
    (found,) = asyncio.run(folder.all())
    assert (found.first_revision, found.last_revision, found.commits) == (4, 7, 4)
    assert (found.name, found.host, found.pool) == (NAME, HOST, POOL)
    assert found.incarnation == INCARNATION


def test_only_the_owner_can_read_what_is_saved(folder: RecoveryFolder, tmp_path: Path) -> None:
    saved(folder, beyond())
    (file,) = (tmp_path / RECOVERY_FOLDER).iterdir()
    assert file.name == f"{NAME}.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "../host", "1-../../x", "1-22222222/../x", "9-99999999"])
def test_no_name_leads_out_of_the_folder(folder: RecoveryFolder, name: str) -> None:
    saved(folder, beyond())
    with pytest.raises(KeyError):
        asyncio.run(folder.read(name, 0))


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"revision": 4}\n', '{"revision": "x"'])
def test_what_somebody_has_damaged_is_in_nobodys_way(
    folder: RecoveryFolder, tmp_path: Path, text: str
) -> None:
    saved(folder, beyond())
    file = tmp_path / RECOVERY_FOLDER / f"{NAME}.jsonl"
    file.write_text(text)
    assert asyncio.run(folder.all()) == ()
    saved(folder, beyond())
    assert len(lines(folder)) == 5
    assert file.with_suffix(".unreadable").read_text() == text


def test_a_long_recovery_is_read_by_page(folder: RecoveryFolder) -> None:
    long = ['{"revision": 1, "x": "' + "x" * PAGE_BYTES + '"}', '{"revision": 2}']
    asyncio.run(folder.save(NAME, long))
    first, more = asyncio.run(folder.read(NAME, 0))
    assert (list(first), more) == (long[:1], 1)
    assert asyncio.run(folder.read(NAME, 1)) == ((long[1],), None)
    assert asyncio.run(folder.read(NAME, 9)) == ((), None)


def test_a_reset_keeps_what_was_saved(tmp_path: Path) -> None:
    with StateDir.open(tmp_path) as directory:
        directory.write_identity(Identity(host=HOST, name="phantom"))
        (tmp_path / "replica.db").write_bytes(b"")
    saved(RecoveryFolder(tmp_path / RECOVERY_FOLDER), beyond())
    assert reset(tmp_path, keep_vms=True, confirm=lambda _: True) is not Outcome.DECLINED
    assert len(asyncio.run(RecoveryFolder(tmp_path / RECOVERY_FOLDER).all())) == 1


def test_the_agent_refuses_what_there_is_not(folder: RecoveryFolder) -> None:
    saved(folder, beyond())
    functions = recovery_functions(folder, lambda: "phantom")
    answer = asyncio.run(functions["ReadRecovery"](pb.ReadRecoveryRequest(name=NAME)))
    assert len(answer.lines) == 5
    for request, reason in (
        (pb.ReadRecoveryRequest(name="7-77777777"), Reason.RECOVERY_NOT_FOUND),
        (pb.ReadRecoveryRequest(name=NAME, page_token="-1"), Reason.INVALID_VALUE),
        (pb.ReadRecoveryRequest(name=NAME, page_token="x"), Reason.INVALID_VALUE),
    ):
        with pytest.raises(PoolError) as refused:
            asyncio.run(functions["ReadRecovery"](request))
        assert refused.value.reason is reason


# -- when it is saved ------------------------------------------------------------------------------


class FullDisk:
    """Implements `Recoveries` on a disk that takes nothing."""

    async def save(self, name: str, lines: Sequence[str]) -> None:
        raise PoolError(Reason.STATE_UNWRITABLE, path="recovery", problem="the disk is full")

    async def all(self) -> tuple[Recovery, ...]:
        return ()

    async def read(self, name: str, after: int) -> tuple[tuple[str, ...], int | None]:
        raise KeyError(name)


def content_of(chain: Chain, *, until: int | None = None) -> ReplicaContent:
    deltas = chain.deltas[:until]
    log = {d.commit.revision: encode_delta(d) for d in deltas}
    return ReplicaContent(POOL, 1, chain.states[len(deltas)], log)


def gone_on(chain: Chain, *, lineage: tuple[Ancestor, ...] = (ANCESTOR,)) -> State:
    """The pool, as it has gone on from revision 3."""
    objects = chain.states[3].objects()
    now = [replace(o, lineage=lineage) if o.uuid == POOL else o for o in objects]  # type: ignore[call-arg]  # it is the pool
    return snapshot(NEXT, CommitId(1, 5), now, ())


def follower(content: ReplicaContent, recoveries: Any) -> Follower:
    return Follower(HOST, POOL, (), MemoryReplica(content), VirtualClock(), recoveries=recoveries)


def test_a_replica_is_replaced_only_after_what_it_has_beyond_was_saved(
    folder: RecoveryFolder,
) -> None:
    chain = beyond()
    content = content_of(chain)
    frames = list(snapshot_frames(gone_on(chain)))
    with pytest.raises(PoolError, match="the disk is full"):
        asyncio.run(follower(content, FullDisk()).replace(frames))
    assert content.state == chain.states[-1], "it can be tried again"

    asyncio.run(follower(content, folder).replace(frames))
    assert content.state is not None
    assert content.state.incarnation == NEXT
    assert [line["revision"] for line in lines(folder)] == [4, 5, 5, 6, 7]


def test_a_host_that_stopped_before_the_fork_has_nothing_to_save(folder: RecoveryFolder) -> None:
    chain = beyond()
    frames = list(snapshot_frames(gone_on(chain)))
    asyncio.run(follower(content_of(chain, until=3), folder).replace(frames))
    assert asyncio.run(folder.all()) == ()


def test_a_host_of_an_unknown_incarnation_saves_all_that_it_knows(folder: RecoveryFolder) -> None:
    chain = beyond()
    frames = list(snapshot_frames(gone_on(chain, lineage=())))
    asyncio.run(follower(content_of(chain), folder).replace(frames))
    assert {line["revision"] for line in lines(folder)} == {1, 2, 3, 4, 5, 6, 7}


def test_a_snapshot_of_the_same_incarnation_saves_nothing(folder: RecoveryFolder) -> None:
    chain = beyond()
    frames = list(snapshot_frames(chain.states[-1]))
    asyncio.run(follower(content_of(chain, until=3), folder).replace(frames))
    assert asyncio.run(folder.all()) == ()
    assert {v.name_label for v in chain.states[-1].all(VM)} == {"web"}

"""What a host does with a member of the pool's etcd that is not fit to run, or has to go."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.facts import KnownCommit
from poolcore.model import Voters
from poolcore.replica import Put, State
from poolmember.etcd.member import MEMBER_FILE, EtcdMember, EtcdRefused
from poolmember.etcd.process import EtcdProcess
from poolmember.etcd.voter import EtcdVoter
from poolmember.etcd.wal import has_log
from support.etcd import three_free_ports
from support.hosts.facts import after, facts, host_id, pool_of
from support.own_etcd import etcds_in

TOKEN = "t"
PEER = "127.0.0.1:7445"
PHANTOM = host_id("phantom")
MEMBER = EtcdMember(
    PHANTOM, "127.0.0.1", "127.0.0.1:7444", PEER, TOKEN, ((PHANTOM, PEER),), joins=False
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    MEMBER.save(tmp_path / "etcd")
    return tmp_path / "etcd"


def with_log(folder: Path) -> Path:
    log = folder / "data" / "member" / "wal"
    log.mkdir(parents=True)
    (log / "0.wal").touch()
    return log / "0.wal"


def begin(folder: Path, *files: str) -> None:
    """Make the folder anew, with these files in it."""
    folder.mkdir()
    for file in files:
        (folder / file).touch()


def voted_by_phantom(token: str = TOKEN) -> State:
    state = pool_of(facts("phantom"))
    return after(state, (Put(replace(state.pool, voters=Voters(token, (PHANTOM,)))),))


async def test_a_disk_that_refuses_is_told_as_such_and_asked_again(folder: Path) -> None:
    in_the_way = folder.with_name("etcd.retired")
    in_the_way.write_text("no folder")
    voter = EtcdVoter(folder, "phantom")
    with pytest.raises(PoolError) as refused:
        await voter.stop(TOKEN)
    assert refused.value.reason is Reason.STATE_UNWRITABLE
    assert voter.cluster is not None
    in_the_way.unlink()
    await voter.leave()
    assert voter.cluster is None


@pytest.mark.etcd
async def test_a_voter_without_its_log_is_not_run_and_begins_anew_when_it_is_told_to(
    folder: Path,
) -> None:
    log = with_log(folder)
    voter = EtcdVoter(folder, "phantom")
    await voter.compare(voted_by_phantom())
    assert (await voter.facts()).token == TOKEN
    log.unlink()
    with pytest.raises(EtcdRefused, match="its log is gone"):
        await EtcdProcess(folder).run()
    assert (await voter.facts()).able, "it says that it has none"
    assert not (await voter.tail("pool", KnownCommit(1, b""))).whole
    # The disk is mounted at last.
    log.touch()
    assert (await voter.facts()).token == TOKEN
    log.unlink()
    await voter.start(MEMBER)
    assert EtcdMember.load(folder) == MEMBER
    assert (folder.with_name("etcd.retired") / MEMBER_FILE).exists()


async def test_a_member_that_has_not_begun_yet_may_begin_its_log(folder: Path) -> None:
    voter = EtcdVoter(folder, "phantom")
    # It is to vote from the start of the cluster, and its etcd has not been started.
    await voter.compare(voted_by_phantom())
    assert EtcdMember.load(folder) == MEMBER
    with_log(folder)
    await voter.compare(voted_by_phantom())
    assert EtcdMember.load(folder) == replace(MEMBER, begun=True)


@pytest.mark.parametrize("left", [None, "etcd.log"])
async def test_what_was_put_aside_is_not_replaced_by_nothing(
    folder: Path, left: str | None
) -> None:
    voter = EtcdVoter(folder, "phantom")
    await voter.leave()
    begin(folder, *([] if left is None else [left]))
    await voter.leave()
    assert (folder.with_name("etcd.retired") / MEMBER_FILE).exists()


@pytest.mark.etcd
async def test_the_daemon_goes_on_when_the_files_of_a_running_etcd_go_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolmember.etcd.voter.AGAIN_SECONDS", 0.1)
    folder, away = tmp_path / "etcd", tmp_path / "away"
    port = three_free_ports()
    client, peer = f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}"
    cluster = ((PHANTOM, peer),)
    voter = EtcdVoter(folder, "phantom")
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(voter.run())
        await voter.start(replace(MEMBER, client=client, peer=peer, cluster=cluster))
        first = await until_running(folder)
        while not has_log(folder / "data"):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
        folder.rename(away)
        for process in first:
            os.kill(process, signal.SIGKILL)
        # It tries to start it again a few times.
        await asyncio.sleep(0.5)
        assert not keeping.done()
        assert (await voter.facts()).token is None
        away.rename(folder)
        assert not set(first) & set(await until_running(folder))
        await voter.stop(TOKEN)
        keeping.cancel()


async def until_running(folder: Path) -> list[int]:
    """The processes of the etcd in that folder, once there are any."""
    async with asyncio.timeout(10):
        while not (found := etcds_in(folder)):  # noqa: ASYNC110 - /proc tells nobody
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("damage", ["", "null", "[]", '{"name": "a"}', '{"cluster": 7}', "\0\0\0"])
async def test_a_host_whose_member_is_damaged_goes_on_without(folder: Path, damage: str) -> None:
    (folder / MEMBER_FILE).write_text(damage)
    voter = EtcdVoter(folder, "phantom")
    assert voter.cluster is None
    assert (await voter.facts()).token is None
    assert not (await voter.tail("pool", KnownCommit(1, b""))).whole
    await voter.compare(voted_by_phantom())
    await voter.stop(TOKEN)
    await voter.leave()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(voter.run())
        await asyncio.sleep(0)
        assert not keeping.done()
        keeping.cancel()


@pytest.mark.etcd
async def test_what_is_left_of_a_member_is_put_aside_before_another_begins(folder: Path) -> None:
    log = with_log(folder)
    (folder / MEMBER_FILE).write_text("")
    voter = EtcdVoter(folder, "phantom")
    await voter.start(replace(MEMBER, token="another"))
    assert voter.cluster is not None
    assert voter.cluster[0] == "another"
    assert (folder.with_name("etcd.retired") / log.relative_to(folder)).exists()


async def test_an_older_state_whatever_its_revision_ends_no_member(folder: Path) -> None:
    state = voted_by_phantom("another")
    incarnation = replace(state.incarnation, counter=state.incarnation.counter + 1)
    replace(MEMBER, since=(incarnation.counter, state.revision - 1)).save(folder)
    voter = EtcdVoter(folder, "phantom")
    await voter.compare(state)
    assert voter.cluster is not None, "a later incarnation, which forked earlier, wants it"
    await voter.compare(replace(state, incarnation=incarnation))
    assert voter.cluster is None


@pytest.mark.etcd
async def test_a_new_member_whose_file_is_damaged_at_once_is_looked_at_now_and_then(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voter = EtcdVoter(folder, "phantom")
    await voter.start(MEMBER)
    (folder / MEMBER_FILE).write_text("")
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(voter.run())
        await asyncio.sleep(0.2)
        keeping.cancel()
    assert len([r for r in caplog.records if "does not say what it is" in r.message]) == 1

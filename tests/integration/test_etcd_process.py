"""The pool's own etcd at one host: it outlives the daemon, and is found again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from poolcore.clock import SystemClock
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.etcd.calls import RANGE
from poolmaster.store.etcd.cluster import Cluster
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.process import EtcdProcess
from poolmember.etcd.voter import EtcdVoter
from support.etcd import free_ports

START_SECONDS = 20.0


@pytest.fixture
def member(tmp_path: Path) -> EtcdMember:
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    member = EtcdMember("host", "127.0.0.1", client, peer, "token", (("host", peer),), joins=False)
    member.save(tmp_path)
    return member


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[EtcdProcess]:
    """Somebody who keeps it running, as a daemon does as long as it runs."""
    process = EtcdProcess(folder)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(process.run())
        yield process
        running.cancel()


async def answering(member: EtcdMember) -> int:
    """Until it answers; the id of the cluster."""
    client = Cluster([member.client], clock=SystemClock())
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    answer = await client.ask(RANGE, pb.RangeRequest(key=b"a"))
                except (StoreUnavailable, grpc.aio.AioRpcError):
                    continue
                return answer.header.cluster_id
    finally:
        await client.close()


def pids(folder: Path) -> list[int]:
    """The processes whose data are in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(f"--data-dir={folder}/") in command:
            found.append(int(entry.name))
    return found


@pytest.mark.etcd
async def test_it_outlives_who_keeps_it_and_is_found_again(
    tmp_path: Path, member: EtcdMember
) -> None:
    async with kept(tmp_path):
        cluster = await answering(member)
        (first,) = pids(tmp_path)
    assert pids(tmp_path) == [first]
    assert await answering(member) == cluster
    async with kept(tmp_path) as process:
        await answering(member)
        assert pids(tmp_path) == [first]
        await process.stop()
    assert pids(tmp_path) == []


@pytest.mark.etcd
async def test_it_is_started_again_when_it_ends_by_itself(
    tmp_path: Path, member: EtcdMember
) -> None:
    async with kept(tmp_path) as process:
        cluster = await answering(member)
        (first,) = pids(tmp_path)
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(START_SECONDS):
            while pids(tmp_path) in ([], [first]):  # noqa: ASYNC110 - /proc tells nobody
                await asyncio.sleep(0.05)
        assert await answering(member) == cluster
        await process.stop()
    assert pids(tmp_path) == []


@pytest.mark.etcd
async def test_one_that_hangs_is_ended_all_the_same(
    tmp_path: Path, member: EtcdMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poolmember.etcd.process.STOP_SECONDS", 0.5)
    async with kept(tmp_path) as process:
        await answering(member)
        os.kill(pids(tmp_path)[0], signal.SIGSTOP)
        await process.stop()
    assert pids(tmp_path) == []


def test_what_a_member_is_is_kept_on_disk(tmp_path: Path, member: EtcdMember) -> None:
    assert EtcdMember.load(tmp_path) == member
    assert EtcdMember.load(tmp_path / "elsewhere") is None


@pytest.mark.etcd
async def test_one_that_is_ended_before_it_was_started_leaves_nothing(
    tmp_path: Path, member: EtcdMember
) -> None:
    (tmp_path / "member.json").unlink()
    folder = tmp_path / "etcd"
    voter = EtcdVoter(folder, "phantom")
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(voter.run())
        await asyncio.sleep(0)
        # In one turn: whoever keeps it running has not looked in between.
        await voter.start(member)
        await voter.stop(member.token)
        assert voter.cluster is None
        await voter.start(member)
        await answering(member)
        await voter.leave()
        assert not pids(folder)
        assert not running.done()
        running.cancel()

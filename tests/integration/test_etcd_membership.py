"""Real clusters that grow, lose a voter and get another one in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from poolcore.clock import SystemClock
from poolmaster.store.contract import OutcomeUnknown, StoreUnavailable
from poolmaster.store.etcd.cluster import Cluster
from poolmaster.store.etcd.membership import (
    ClusterMember,
    NotNow,
    add_learner,
    members,
    promote,
    remove,
)
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.process import EtcdProcess
from support.etcd import free_ports

pytestmark = pytest.mark.etcd

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
TOKEN = "incarnation"


class Hosts:
    """Hosts with an etcd each, kept running as daemons do."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self._folder = folder
        self._tasks = tasks
        self._kept: dict[str, tuple[EtcdProcess, asyncio.Task[None]]] = {}
        self.clients: dict[str, str] = {}
        self.peers: dict[str, str] = {}

    def place(self, name: str) -> None:
        """Choose where a host's etcd is to be."""
        client, peer = free_ports(2)
        self.clients[name], self.peers[name] = f"127.0.0.1:{client}", f"127.0.0.1:{peer}"

    def start(self, name: str, *with_: str, joins: bool) -> None:
        cluster = tuple((other, self.peers[other]) for other in (*with_, name))
        folder = self._folder / name
        client, peer = self.clients[name], self.peers[name]
        EtcdMember(name, "127.0.0.1", client, peer, TOKEN, cluster, joins=joins).save(folder)
        process = EtcdProcess(folder)
        self._kept[name] = (process, self._tasks.create_task(process.run()))

    async def stop(self, name: str) -> None:
        process, keeping = self._kept.pop(name)
        await process.stop()
        keeping.cancel()

    async def close(self) -> None:
        for name in list(self._kept):
            await self.stop(name)


@asynccontextmanager
async def hosts(folder: Path) -> AsyncIterator[Hosts]:
    async with asyncio.TaskGroup() as tasks:
        there = Hosts(folder, tasks)
        try:
            yield there
        finally:
            await there.close()


@asynccontextmanager
async def client(there: Hosts, *names: str) -> AsyncIterator[Cluster]:
    cluster = Cluster([there.clients[name] for name in names], clock=SystemClock())
    try:
        yield cluster
    finally:
        await cluster.close()


async def when(cluster: Cluster, *names: str) -> tuple[ClusterMember, ...]:
    """Until the cluster answers and has these voters, all started."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                found = await members(cluster)
            except StoreUnavailable:
                continue
            if sorted(m.name for m in found if not m.learner) == sorted(names):
                return found
            await asyncio.sleep(0.05)


async def grown(there: Hosts, cluster: Cluster, name: str, *present: str) -> None:
    """Take a host in as a voter."""

    async def add() -> ClusterMember:
        # What an attempt without an answer has come to, the members tell.
        known = (m for m in await members(cluster) if m.peer == there.peers[name])
        try:
            return next(known, None) or await add_learner(cluster, there.peers[name])
        except OutcomeUnknown as error:
            raise StoreUnavailable(str(error)) from error

    added = await insisted(add)
    there.start(name, *present, joins=True)
    await insisted(lambda: promote(cluster, added.id))
    await when(cluster, *present, name)


async def insisted(change: Callable[[], Awaitable[T]]) -> T:
    """Ask for a change until etcd does not refuse it any more."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await change()
            except (NotNow, StoreUnavailable):
                await asyncio.sleep(0.05)


async def test_a_cluster_grows_and_replaces_a_voter_that_is_gone(tmp_path: Path) -> None:
    async with hosts(tmp_path) as there:
        for name in ("a", "b", "c", "d"):
            there.place(name)
        there.start("a", joins=False)
        async with client(there, "a", "b", "c", "d") as cluster:
            await when(cluster, "a")
            await grown(there, cluster, "b", "a")
            await grown(there, cluster, "c", "a", "b")
            await there.stop("c")

            # With a voter missing etcd takes nobody in: the dead one has to go first.
            with pytest.raises(NotNow):
                await add_learner(cluster, there.peers["d"])
            (dead,) = (m for m in await members(cluster) if m.name == "c")
            # Not before the others have noticed that it is gone.
            await insisted(lambda: remove(cluster, dead.id))
            await remove(cluster, dead.id)
            # Another master has taken it out, of which this one has not heard.
            with pytest.raises(NotNow):
                await promote(cluster, dead.id)
            await grown(there, cluster, "d", "a", "b")

            found = await when(cluster, "a", "b", "d")
            assert {m.name: m.client for m in found} == {n: there.clients[n] for n in "abd"}


async def test_without_a_quorum_the_members_are_not_told(tmp_path: Path) -> None:
    async with hosts(tmp_path) as there:
        for name in ("a", "b"):
            there.place(name)
        there.start("a", "b", joins=False)
        there.start("b", "a", joins=False)
        async with client(there, "a", "b") as cluster:
            await when(cluster, "a", "b")
            await there.stop("b")
            with pytest.raises(StoreUnavailable):
                await members(cluster)


async def test_what_is_no_etcd_does_not_tell_the_members(tmp_path: Path) -> None:
    stranger = grpc.aio.server()
    port = stranger.add_insecure_port("127.0.0.1:0")
    await stranger.start()
    cluster = Cluster([f"127.0.0.1:{port}"], clock=SystemClock())
    try:
        with pytest.raises(StoreUnavailable):
            await members(cluster)
    finally:
        await cluster.close()
        await stranger.stop(None)

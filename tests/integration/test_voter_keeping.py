"""The keeper of the voters and a real cluster, in which hosts are lost at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from poolcore.clock import SystemClock
from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, Kind, Voters
from poolcore.replica import Put, Remove, State
from poolmaster.ledger import Decide, Decision
from poolmaster.own_etcd import client_address, peer_address
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.etcd import membership
from poolmaster.store.etcd.cluster import Cluster
from poolmaster.store.etcd.membership import (
    ClusterMember,
    NotNow,
    add_learner,
    members,
    remove,
)
from poolmaster.voter_keeping import LOOK_SECONDS, VoterKeeping
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.process import EtcdProcess
from support.etcd import leading, three_free_ports
from support.hosts.facts import NAMES, after, facts, host_id, pool_of

pytestmark = pytest.mark.etcd

TOKEN = "incarnation"
PATIENCE_SECONDS = 30.0


def pool_on_loopback() -> State:
    """Four hosts whose etcds have ports that nobody uses; the first three vote."""
    state = pool_of(*map(facts, NAMES))
    for name in NAMES:
        host = state.host(host_id(name))
        # The daemon's, which nobody needs here, and the two after it.
        address = replace(host.addresses[0], endpoint=f"127.0.0.1:{three_free_ports()}")
        state = after(state, (Put(replace(host, addresses=(address,))),))
    voting = tuple(sorted(host_id(name) for name in NAMES[:3]))
    return after(state, (Put(replace(state.pool, voters=Voters(TOKEN, voting))),))


class PoolInMemory:
    """As much of a mastership as the keeper needs."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.over = False
        """Whether somebody else has moved `head`."""

    async def write(self, decide: Decide) -> None:
        if self.over:
            raise PoolError(Reason.NO_MASTER, host="this host", problem="it was replaced")
        decision: Decision = decide(self.state)
        self.state = after(self.state, decision.changes)


class NobodyAttached:
    """The sessions of a mastership to which no host has come yet."""

    def get(self, host: HostId) -> None:
        return None


class Hosts:
    """Hosts with an etcd each, kept running as daemons do."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self._folder, self._tasks = folder, tasks
        self._kept: dict[HostId, tuple[EtcdProcess, asyncio.Task[None]]] = {}

    def start(self, host: Host, *among: Host, joins: bool = False) -> None:
        folder = self._folder / host.uuid
        cluster = tuple((h.uuid, peer_address(h)) for h in among)
        client, peer = client_address(host), peer_address(host)
        member = EtcdMember(host.uuid, "127.0.0.1", client, peer, TOKEN, cluster, joins=joins)
        member.save(folder)
        process = EtcdProcess(folder)
        self._kept[host.uuid] = (process, self._tasks.create_task(process.run()))

    async def stop(self, *hosts: HostId) -> None:
        kept = [self._kept.pop(host) for host in hosts]
        await asyncio.gather(*(process.stop() for process, _ in kept))
        for _, keeping in kept:
            keeping.cancel()

    async def close(self) -> None:
        await self.stop(*self._kept)


@asynccontextmanager
async def hosts_in(folder: Path) -> AsyncIterator[Hosts]:
    async with asyncio.TaskGroup() as tasks:
        there = Hosts(folder, tasks)
        try:
            yield there
        finally:
            await there.close()


def keeper(pool: Any, cluster: Cluster) -> VoterKeeping:
    sessions: Any = NobodyAttached()
    return VoterKeeping(pool, cluster, sessions=sessions, agents=None, clock=SystemClock())  # type: ignore[arg-type]


@dataclass
class Voting:
    """Three voters and a learner that has everything."""

    hosts: list[Host]
    there: Hosts
    cluster: Cluster
    pool: PoolInMemory
    learner: ClusterMember

    async def until_looked(self) -> None:
        """Have the keeper look more than once."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * LOOK_SECONDS):
                await keeper(self.pool, self.cluster).run()

    async def learners(self) -> list[int]:
        return [m.id for m in await members(self.cluster) if m.learner]


@asynccontextmanager
async def voting(folder: Path) -> AsyncIterator[Voting]:
    pool = PoolInMemory(pool_on_loopback())
    hosts = [pool.state.host(host_id(name)) for name in NAMES]
    cluster = Cluster([client_address(host) for host in hosts], clock=SystemClock())
    async with hosts_in(folder) as there:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for host in hosts[:3]:
                    there.start(host, *hosts[:3])
                added = await learner_at(cluster, hosts[3])
                there.start(hosts[3], *hosts, joins=True)
                await until_in_step(cluster, hosts)
            yield Voting(hosts, there, cluster, pool, added)
        finally:
            await cluster.close()


async def learner_at(cluster: Cluster, host: Host) -> ClusterMember:
    while True:
        try:
            return await add_learner(cluster, peer_address(host))
        except (NotNow, StoreUnavailable):
            await asyncio.sleep(0.1)


async def until_in_step(cluster: Cluster, hosts: Sequence[Host]) -> None:
    while True:
        with suppress(grpc.aio.AioRpcError):
            found = {await applied(cluster, client_address(host)) for host in hosts}
            if len(found) == 1:
                return
        await asyncio.sleep(0.1)


async def applied(cluster: Cluster, address: str) -> int:
    async with cluster.at(address) as endpoint:
        return (await cluster.status(endpoint)).raft_applied_index


async def test_a_learner_that_is_lost_together_with_a_voter_is_not_given_a_vote(
    tmp_path: Path,
) -> None:
    """A new master has not heard of either yet; etcd itself would promote the learner."""
    async with voting(tmp_path) as those:
        led_by = (await leading(those.cluster)).address
        lost = next(h for h in those.hosts[:3] if client_address(h) != led_by)
        await those.there.stop(lost.uuid, those.hosts[3].uuid)
        await those.until_looked()
        assert await those.learners() == [those.learner.id]


async def test_a_voter_that_leads_etcd_hands_that_over_before_it_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would notice by its silence, and take no writes meanwhile."""
    led: asyncio.Queue[str] = asyncio.Queue()

    async def noted(cluster: Cluster, id_: int) -> None:
        led.put_nowait((await leading(cluster)).address)
        await remove(cluster, id_)

    monkeypatch.setattr(membership, "remove", noted)
    async with voting(tmp_path) as those:
        leader = (await leading(those.cluster)).address
        leaving = next(h for h in those.hosts[:3] if client_address(h) == leader)
        those.pool.state = after(those.pool.state, (Remove(Kind.HOST, leaving.uuid),))
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(keeper(those.pool, those.cluster).run())
            assert await led.get() != leader
            keeping.cancel()


async def test_a_master_that_was_replaced_while_it_was_paused_gives_nobody_a_vote(
    tmp_path: Path,
) -> None:
    async with voting(tmp_path) as those:
        known = those.pool.state.pool.voters
        assert known is not None
        # Nothing is to be written because of the learner.
        voters = replace(known, learners=(those.hosts[3].uuid,))
        those.pool.state = after(
            those.pool.state, (Put(replace(those.pool.state.pool, voters=voters)),)
        )
        those.pool.over = True
        await those.until_looked()
        assert await those.learners() == [those.learner.id]
        those.pool.over = False
        await those.until_looked()
        assert await those.learners() == []

"""Keeping the voters of the pool's own etcd: hosts that are gone or leave are replaced.

Runs beside a mastership whose store is there. What there is is read from etcd each time, and one
step is made at a time (`poolmaster.decide.voters`), so a step that was cut short is found and gone
on with by whoever is master then. `Pool.voters` follows: it tells the hosts where the store is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import grpc

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.model import Host, HostId, Voters
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.decide.in_step import is_leaving
from poolmaster.decide.voters import (
    Add,
    Candidate,
    Facts,
    Member,
    Promote,
    Readdress,
    Remove,
    Step,
    Wait,
    next_step,
    wanted,
)
from poolmaster.ledger import Decision
from poolmaster.operations.steps import Pool
from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside, peer_address
from poolmaster.sessions import Sessions
from poolmaster.store.contract import StoreError
from poolmaster.store.etcd import membership
from poolmaster.store.etcd.cluster import Cluster
from poolmaster.store.etcd.membership import ClusterMember, NotNow
from poolmaster.store.etcd.room import move_leader

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


class VoterKeeping:
    """See the module's docstring."""

    def __init__(
        self,
        pool: Pool,
        cluster: Cluster,
        *,
        sessions: Sessions,
        agents: Agents,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._cluster = cluster
        self._sessions = sessions
        self._agents = agents
        self._clock = clock
        self._changed_at = clock.monotonic()
        self._answered_at: dict[int, float] = {}
        """When each member answered last, by its id."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except (PoolError, StoreError, NotNow) as error:
                log.info("the voters stay as they are for now: %s", error)

    async def _look(self) -> None:
        state = self._pool.state
        if state.pool.voters is None:
            return
        found = await membership.members(self._cluster)
        await self._agree(found)
        members = await asyncio.gather(*(self._member(state, member) for member in found))
        for member, fact in zip(found, members, strict=True):
            if member.learner and not member.name and state.get(Host, fact.host) is not None:
                await self._start(state.host(fact.host), found)
        candidates = await self._candidates(state, members)
        anew = {c.host for c in candidates if c.able}
        facts = Facts(
            hosts=candidates,
            members=tuple(
                # One that has no name has not begun yet.
                replace(member, lost=bool(listed.name) and member.host in anew)
                for listed, member in zip(found, members, strict=True)
            ),
            quiet_seconds=self._clock.monotonic() - self._changed_at,
            replace_seconds=state.pool.failover.replace_voter_seconds,
        )
        await self._take(next_step(facts), state, found)

    async def _take(
        self,
        step: Step,
        state: State,
        found: Sequence[ClusterMember],
    ) -> None:
        if isinstance(step, Remove):
            # Before the write, behind which nothing is to take long.
            await self._hand_over_from(next(m for m in found if m.id == step.id), found)
        if not isinstance(step, Wait):
            # Written though nothing changes: one that was paused may be master no more.
            await self._pool.write(lambda _: Decision(()))
        match step:
            case Wait():
                return
            case Add(host):
                joining = state.host(host)
                log.info("%s is to vote", joining.name_label)
                added = await membership.add_learner(self._cluster, peer_address(joining))
                # Before it starts: a member that the pool does not know of ends itself.
                await self._agree((*found, added))
                await self._start(joining, (*found, added))
            case Promote(id):
                await membership.promote(self._cluster, id)
            case Remove(id):
                leaving = next(member for member in found if member.id == id)
                log.warning("the etcd at %s votes no more", leaving.peer)
                await membership.remove(self._cluster, id)
                self._answered_at.pop(id, None)
            case Readdress(id, peer):
                log.warning("a voter of the pool's etcd is at %s from now on", peer)
                await membership.update(self._cluster, id, peer)
        self._changed_at = self._clock.monotonic()
        # One that votes no more ends when its host hears that.
        await self._agree(await membership.members(self._cluster))

    async def _hand_over_from(self, leaving: ClusterMember, found: Sequence[ClusterMember]) -> None:
        """Have another voter lead etcd: of one that is taken out it hears only by its silence."""
        now = self._clock.monotonic()
        others = (m.id for m in found if not m.learner and m.id != leaving.id)
        there = [
            id_ for id_ in others if now - self._answered_at.get(id_, -math.inf) < LOOK_SECONDS
        ]
        async with self._cluster.at(_client_of(leaving)) as endpoint:
            try:
                status = await self._cluster.status(endpoint)
                if status.leader == leaving.id and there:
                    await move_leader(endpoint, min(there))
            except (grpc.aio.AioRpcError, StoreError) as error:
                log.info("etcd's lead is not handed over before: %s", error)

    async def _agree(self, found: Sequence[ClusterMember]) -> None:
        """Have `Pool.voters` say what etcd says."""
        voters = _agreed(self._pool.state, found)
        if voters != self._pool.state.pool.voters:
            await self._pool.write(lambda state: _agreement(state, found))

    async def _start(self, host: Host, found: Sequence[ClusterMember]) -> None:
        state = self._pool.state
        if state.pool.voters is None:
            return
        await self._agents.start_voter(
            host.address,
            state.pool.uuid,
            state.pool.voters.token,
            tuple((_host_of(state, member), member.peer) for member in found),
            joins=True,
            since=state.reach,
        )

    async def _member(self, state: State, member: ClusterMember) -> Member:
        now = self._clock.monotonic()
        if await self._answers(member):
            self._answered_at[member.id] = now
        # One that has never answered is gone: it does not count where a majority has to be there.
        answered_at = self._answered_at.setdefault(member.id, self._changed_at)
        host = state.get(Host, _host_of(state, member))
        return Member(
            id=member.id,
            host=_host_of(state, member),
            peer=member.peer,
            at="" if host is None else peer_address(host),
            learner=member.learner,
            gone_seconds=now - answered_at,
        )

    async def _answers(self, member: ClusterMember) -> bool:
        async with self._cluster.at(_client_of(member)) as endpoint:
            try:
                await self._cluster.status(endpoint)
            except grpc.aio.AioRpcError:
                return False
        return True

    async def _candidates(self, state: State, members: Sequence[Member]) -> tuple[Candidate, ...]:
        staying = [h for h in state.all(Host) if not is_leaving(state, h.uuid)]
        voting = {m.host for m in members if not m.learner and m.gone_seconds == 0.0}
        enough = len(voting & {h.uuid for h in staying}) == wanted(len(staying))
        able = set() if enough else await self._able(staying)
        return tuple(
            Candidate(
                host=host.uuid,
                able=host.uuid in able,
                preference=host.failover_priority if host.enabled else -1,
            )
            for host in staying
        )

    async def _able(self, hosts: Sequence[Host]) -> set[HostId]:
        async def is_able(host: Host) -> bool:
            if self._sessions.get(host.uuid) is None:
                return False
            try:
                found = await self._agents.voter(host.address)
            except PoolError as error:
                log.info("%s does not say whether it can vote: %s", host.name_label, error)
                return False
            return found.able

        answers = await asyncio.gather(*map(is_able, hosts))
        return {host.uuid for host, able in zip(hosts, answers, strict=True) if able}


def _agreed(state: State, found: Sequence[ClusterMember]) -> Voters | None:
    """What `Pool.voters` is to be; as it is when no host of the pool would be left in it."""
    of_pool = [(_host_of(state, member), member.learner) for member in found]
    of_pool = [(host, learner) for host, learner in of_pool if state.get(Host, host) is not None]
    hosts = tuple(sorted(host for host, learner in of_pool if not learner))
    learners = tuple(sorted(host for host, learner in of_pool if learner))
    voters = state.pool.voters
    return replace(voters, hosts=hosts, learners=learners) if voters and hosts else voters


def _agreement(state: State, found: Sequence[ClusterMember]) -> Decision:
    return Decision((Put(replace(state.pool, voters=_agreed(state, found))),))


def _client_of(member: ClusterMember) -> str:
    """Where a member serves clients."""
    return beside(member.peer, CLIENT_PORT - PEER_PORT)


def _host_of(state: State, member: ClusterMember) -> HostId:
    """The host that a member is at; of one that has not started, by its address."""
    if member.name:
        return HostId(member.name)
    hosts = (h for h in state.all(Host) if peer_address(h) == member.peer)
    return next((host.uuid for host in hosts), HostId(""))

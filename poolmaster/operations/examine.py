"""Gathering what preflight wants to know: the host's facts, its clock, who reaches whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, Unreachable
from poolcore.model import Host, HostMetrics
from poolcore.replica import State
from poolmaster.agents import Agents, Answer
from poolmaster.decide.voters import is_needed


@dataclass(frozen=True, slots=True)
class Examiner:
    """Asks a joining host, and the hosts of the pool about it."""

    agents: Agents
    clock: Clock
    own_nonce: Callable[[], Awaitable[str]]
    """Reads the nonce from the pool's own store."""

    async def measured(
        self, endpoint: str, ask: Callable[[], Awaitable[Answer]] | None = None
    ) -> HostFacts:
        """The host's facts with its clock's offset, to half the call's round trip (row 20)."""
        before, began = self.clock.now(), self.clock.monotonic()
        answer = await (ask() if ask is not None else self.agents.facts(endpoint))
        half = (self.clock.monotonic() - began) / 2
        offset = (answer.clock - before).total_seconds() - half
        # Within half the round trip the offset may be the network's as well as the clock's.
        certain = 0.0 if abs(offset) <= half else offset
        return replace(
            answer.facts, clock_offset_seconds=answer.facts.clock_offset_seconds + certain
        )

    async def reachability(self, state: State, facts: HostFacts) -> HostFacts:
        """The facts with who cannot reach whom, both ways (row 19).

        Members that are not attached are left out: they can neither be asked nor be reached, which
        is no property of the joining host.
        """
        live = {m.host for m in state.all(HostMetrics) if m.live}
        hosts = sorted(state.all(Host), key=lambda h: h.uuid)
        members = [h for h in hosts if h.uuid in live and h.uuid != facts.host]
        if not members:
            return facts
        joining = ((facts.name_label, _address(facts)),)
        there = self._probe(
            facts.name_label,
            _address(facts),
            tuple((m.name_label, m.address) for m in members),
        )
        back = [self._probe(m.name_label, m.address, joining) for m in members]
        found = await asyncio.gather(there, *back)
        unreachable = tuple(u for group in found for u in group)
        return replace(facts, unreachable=(*facts.unreachable, *unreachable))

    async def would_vote(self, state: State, facts: HostFacts, *, store: str | None) -> bool:
        """Whether the pool would give the host a vote in its own etcd (row 24).

        `store`: the URL of the store if hosts share it. A pool founds no etcd if another of the
        three hosts could not vote; nor does one whose store is somebody else's.
        """
        told_not_to = facts.etcd_version is None and facts.etcd_problem is None
        if told_not_to or not is_needed(state):
            return False
        if state.pool.voters is not None or store is not None:
            return state.pool.voters is not None
        return all(await asyncio.gather(*(self._could_vote(h.address) for h in state.all(Host))))

    async def _could_vote(self, endpoint: str) -> bool:
        try:
            return (await self.agents.voter(endpoint)).able
        except PoolError:
            # One that does not answer does not vote now either.
            return False

    async def same_store(
        self, facts: HostFacts, endpoint: str, store: str | None, pool: str
    ) -> HostFacts:
        """The facts, if the host sees the store that the pool's hosts share; else refused."""
        if store is None:
            return facts
        nonce = await self.agents.read_nonce(endpoint, store, pool)
        if nonce != await self.own_nonce():
            problem = f"it finds another store, or none, at {store}"
            raise PoolError(Reason.STORE_NOT_SHARED, host=facts.name_label, problem=problem)
        return facts

    async def _probe(
        self, from_host: str, endpoint: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        try:
            return await self.agents.probe(endpoint, targets)
        except PoolError as error:
            return tuple(
                Unreachable(from_host=from_host, to_host=to, endpoint=target, problem=error.message)
                for to, target in targets
            )


def _address(facts: HostFacts) -> str:
    return facts.addresses[0].endpoint if facts.addresses else ""

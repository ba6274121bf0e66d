"""Declaring a host dead, and forgetting it: one commit each, once it is clear that it is not there.

A host is there if it is attached to the master, or if anything takes connections at its address: a
daemon that hangs has VMs that run. Only a daemon that says it is another host does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.decide.gone import declared_dead, forgotten
from poolmaster.decide.holdings import metrics_of
from poolmaster.ledger import Decide, Decision
from poolmaster.operations.steps import Pool
from poolmaster.sessions import Sessions

NO_ANSWER = frozenset({Reason.HOST_UNREACHABLE, Reason.HOST_NAME_UNRESOLVABLE})
"""What the agents tell when nothing is there."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What a person decides about hosts that are gone for good."""

    agents: Agents
    sessions: Sessions
    master: HostId

    async def ensure_silent(self, host: Host) -> None:
        """Return when the host is neither attached nor answering; `HOST_IS_LIVE` otherwise."""
        await self.sessions.had_time(host.uuid)
        self._ensure_away(host)
        try:
            facts = (await self.agents.facts(host.address)).facts
        except PoolError as error:
            if error.reason in NO_ANSWER:
                return
            problem = f"something answers at {host.address}: {error.message.rstrip('.')}"
            raise _live(host, problem) from error
        if facts.host == host.uuid:
            raise _live(host, f"it answers at {host.address}")

    def declare_dead(self, pool: Pool, host: HostId) -> Decide:
        """The decision that records that the host is off."""

        def decide(state: State) -> Decision:
            known = self._known(state, host)
            metrics = metrics_of(state, host)
            changes = declared_dead(state, host, now=pool.now())
            if not changes and metrics is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                changes = (Put(metrics),)
            return Decision(changes, result=known)

        return decide

    def forget(self, pool: Pool, host: HostId, *, vouched: bool) -> Decide:
        """The decision that removes the host; its result says what has gone."""

        def decide(state: State) -> Decision:
            known = self._known(state, host)
            metrics = metrics_of(state, host)
            if not (vouched or (metrics is not None and metrics.declared_dead)):
                raise PoolError(Reason.HOST_NOT_DECLARED_DEAD, host=known.name_label)
            found = forgotten(state, host, now=pool.now())
            return Decision(found.changes, result=found)

        return decide

    def _known(self, state: State, host: HostId) -> Host:
        known = state.get(Host, host)
        if known is None:
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind="host", name=host)
        if host == self.master:
            raise PoolError(Reason.HOST_IS_MASTER, host=known.name_label)
        self._ensure_away(known)
        return known

    def _ensure_away(self, host: Host) -> None:
        if host.uuid == self.master:
            raise PoolError(Reason.HOST_IS_MASTER, host=host.name_label)
        if self.sessions.get(host.uuid) is not None:
            raise _live(host, "it is connected to the master")


def _live(host: Host, problem: str) -> PoolError:
    return PoolError(Reason.HOST_IS_LIVE, host=host.name_label, problem=problem)

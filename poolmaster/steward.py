"""The pool looks after its own etcd: it founds one as soon as three hosts can vote.

Runs beside a mastership whose store is on the master's disk.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable
from datetime import timedelta

from poolcore.clock import Clock
from poolcore.errors import PoolError
from poolcore.model import Host, HostId, Task, TaskId, TaskStatus
from poolcore.replica import State
from poolmaster.agents import Agents
from poolmaster.decide.voters import VOTERS
from poolmaster.operations.found_etcd import FoundEtcd
from poolmaster.operations.steps import Operations, Pool
from poolmaster.sessions import Sessions

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS, LOOK_SECONDS = 5.0, 10.0
AGAIN_AFTER = timedelta(minutes=2)
"""From a founding that failed to the next."""


class Steward:
    """See the module's docstring."""

    def __init__(
        self,
        pool: Pool,
        *,
        operations: Operations,
        found_etcd: FoundEtcd,
        sessions: Sessions,
        agents: Agents,
        host: HostId,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._operations = operations
        self._found_etcd = found_etcd
        self._sessions = sessions
        self._agents = agents
        self._host = host
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        await self._clock.sleep(FIRST_LOOK_SECONDS)
        while True:
            try:
                await self._look()
            except PoolError as error:
                log.info("the pool's etcd is not founded now: %s", error.message)
            await self._clock.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        state = self._pool.state
        there = [h for h in state.all(Host) if self._sessions.get(h.uuid) is not None]
        if len(there) < VOTERS or self._too_soon(state):
            return
        here = state.host(self._host)
        if not await self._able([here]):
            return
        able = await self._able(there)
        others = sorted((h for h in able if h.uuid != self._host), key=_preference)
        if len(able) < VOTERS or len(others) == len(able):
            return
        voters = [self._host, *(host.uuid for host in others[: VOTERS - 1])]
        task, token = TaskId(str(uuid.uuid4())), str(uuid.uuid4())
        await self._operations.start(self._found_etcd.begin(self._pool, task, token, voters))

    def _too_soon(self, state: State) -> bool:
        """Whether one is under way, or has failed a moment ago."""
        tasks = [t for t in state.all(Task) if t.operation == FoundEtcd.name]
        now = self._clock.now()
        tried = [t for t in tasks if t.status is not TaskStatus.SUCCESS]
        return any(t.finished is None or now - t.finished < AGAIN_AFTER for t in tried)

    async def _able(self, hosts: Iterable[Host]) -> list[Host]:
        """Those that have an etcd to vote with, and vote nowhere."""

        async def is_able(host: Host) -> bool:
            try:
                found = await self._agents.voter(host.address)
            except PoolError as error:
                log.info("%s does not say whether it can vote: %s", host.name_label, error)
                return False
            if found.problem is not None:
                log.info("%s cannot vote: %s", host.name_label, found.problem)
            return found.version is not None and found.token is None

        asked = list(hosts)
        answers = await asyncio.gather(*map(is_able, asked))
        return [host for host, able in zip(asked, answers, strict=True) if able]


def _preference(host: Host) -> tuple[bool, int, str]:
    # One in maintenance may be switched off at any moment.
    return not host.enabled, -host.failover_priority, host.uuid

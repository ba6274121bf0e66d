"""The pool looks after where its store is: three hosts found an etcd, fewer leave it again.

Runs beside every mastership whose store is the pool's own: on the master's disk, or in its etcd.
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
from poolmaster.operations.leave_etcd import LeaveEtcd
from poolmaster.operations.steps import Operations, Pool
from poolmaster.sessions import Sessions

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS, LOOK_SECONDS = 5.0, 10.0
LEAVE_LOOK_SECONDS = 2.0
"""An etcd of two voters loses its quorum with either of them."""
LEAVE_AFTER_SECONDS = 10.0
"""A host that is replaced is often forgotten a moment before the next one is added."""
AGAIN_AFTER = timedelta(minutes=2)
"""From an attempt that failed to the next."""


class Steward:
    """See the module's docstring."""

    def __init__(
        self,
        pool: Pool,
        *,
        operations: Operations,
        found_etcd: FoundEtcd,
        leave_etcd: LeaveEtcd,
        sessions: Sessions,
        agents: Agents,
        host: HostId,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._operations = operations
        self._found_etcd = found_etcd
        self._leave_etcd = leave_etcd
        self._sessions = sessions
        self._agents = agents
        self._host = host
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        if self._pool.state.pool.voters is not None:
            await self._leave_when_due()
        await self._clock.sleep(FIRST_LOOK_SECONDS)
        while True:
            try:
                await self._found_if_possible()
            except PoolError as error:
                log.info("the pool's etcd is not founded now: %s", error.message)
            await self._clock.sleep(LOOK_SECONDS)

    async def _leave_when_due(self) -> None:
        enough_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(LEAVE_LOOK_SECONDS)
            state, now = self._pool.state, self._clock.monotonic()
            if sum(1 for _ in state.all(Host)) >= VOTERS:
                enough_at = now
            if now - enough_at < LEAVE_AFTER_SECONDS or self._too_soon(state, LeaveEtcd.name):
                continue
            try:
                await self._operations.start(self._leave_etcd.begin(self._pool, _new_task()))
            except PoolError as error:
                log.info("the pool does not leave its etcd now: %s", error.message)

    async def _found_if_possible(self) -> None:
        state = self._pool.state
        there = [h for h in state.all(Host) if self._sessions.get(h.uuid) is not None]
        if len(there) < VOTERS or self._too_soon(state, FoundEtcd.name):
            return
        here = state.host(self._host)
        if not await self._able([here]):
            return
        others = await self._able(h for h in there if h.uuid != self._host)
        if len(others) < VOTERS - 1:
            return
        in_step = state.pool.in_step
        chosen = sorted(others, key=lambda h: _preference(h, in_step=in_step))[: VOTERS - 1]
        voters = [self._host, *(host.uuid for host in chosen)]
        founding = self._found_etcd.begin(self._pool, _new_task(), str(uuid.uuid4()), voters)
        await self._operations.start(founding)

    def _too_soon(self, state: State, operation: str) -> bool:
        """Whether it is under way, or has failed a moment ago."""
        now = self._clock.now()
        return any(
            task.finished is None or now - task.finished < AGAIN_AFTER
            for task in state.all(Task)
            if task.operation == operation and task.status is not TaskStatus.SUCCESS
        )

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
            return found.able

        asked = list(hosts)
        answers = await asyncio.gather(*map(is_able, asked))
        return [host for host, able in zip(asked, answers, strict=True) if able]


def _new_task() -> TaskId:
    return TaskId(str(uuid.uuid4()))


def _preference(host: Host, *, in_step: HostId | None) -> tuple[bool, bool, int, str]:
    # The host in step has to notice that the store moves: a person may ask it to go on alone. One
    # in maintenance may be switched off at any moment.
    return host.uuid != in_step, not host.enabled, -host.failover_priority, host.uuid

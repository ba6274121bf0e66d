"""Handing the mastership over: to a host that a person designates, or to the best one at the end.

| step         | after a crash | what holds then                                                 |
|--------------|---------------|-----------------------------------------------------------------|
| started      | resume        | the task is recorded; nothing has been done                     |
| handing-over | complete      | writes wait; the target may already be the master               |

The decision is the target's claim, one swap of `head`: before it the old master goes on as if
nothing had been, after it the old one cannot commit any more. So whoever is master when the task is
resumed knows how it ended: it succeeded if that is the target.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Host, HostId, Task, TaskId
from poolcore.replica import Head, Put, State
from poolmaster.agents import Agents
from poolmaster.decide.leadership import preference
from poolmaster.ledger import Decide, Decision, Ledger
from poolmaster.operations.steps import (
    Pool,
    Recovery,
    Step,
    current,
    ended,
    record,
    running,
    surplus,
)
from poolmaster.sessions import RECONNECT_SECONDS, Session, Sessions
from poolmaster.succession import next_incarnation, succession

log = logging.getLogger(__name__)

CATCH_UP_SECONDS = 5.0
"""How long a target may take to apply what there is, before writes are made to wait."""
PREPARE_SECONDS = 60.0
"""How long a target may take to copy the store's content; writes go on meanwhile."""
TAKE_OVER_SECONDS = 2.0
"""How long writes wait for the target; then the old master goes on."""


class Handover:
    """Gives the mastership to another host; nothing has happened if that raises."""

    def __init__(self, ledger: Ledger, sessions: Sessions, agents: Agents, *, shared: bool) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._agents = agents
        self._shared = shared

    def check(self, state: State, host: HostId, *, in_maintenance: bool = False) -> Host:
        """The host if it could take over now; raises `PoolError` with the reason if not.

        `in_maintenance`: a host in maintenance could, too.
        """
        found = state.get(Host, host)
        if found is None:
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind="host", name=host)
        if found.witness:
            problem = "it votes and never becomes master"
            raise PoolError(Reason.HOST_IS_WITNESS, host=found.name_label, problem=problem)
        ours = state.host(self._ledger.head.master).software_version
        if found.software_version != ours:
            problem = (
                f"it runs {found.software_version.product_version}, not {ours.product_version}"
            )
            raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=found.name_label, problem=problem)
        if not found.failover_priority:
            problem = "its failover priority is 0"
            raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=found.name_label, problem=problem)
        if not (found.enabled or in_maintenance):
            raise PoolError(Reason.HOST_DISABLED, host=found.name_label)
        if self._sessions.get(host) is None:
            raise PoolError(Reason.HOST_OFFLINE, host=found.name_label)
        return found

    async def to(
        self, host: Host, why: Accession, *, announced: Callable[[], None] = lambda: None
    ) -> None:
        """Have `host` claim the mastership while writes wait; returns when it has confirmed it.

        Raises `HANDOVER_FAILED`; then this master goes on, unless its next commit finds that the
        host has claimed after all.
        """
        name = host.name_label
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await self._sessions.attached_at(host.uuid, self._ledger.head.revision)
        except TimeoutError:
            raise _failed(name, "it is too far behind") from None
        incarnation = str(uuid.uuid4())
        if not self._shared:
            await self._prepare(host, incarnation)
        async with self._ledger.paused() as head:
            if self._ledger.state.get(Host, host.uuid) is None:
                raise _failed(name, "it is not of the pool any more")
            announced()
            if self._shared:
                await self._by_claim(host, head, why)
            else:
                await self._by_succession(host, head, why, incarnation)
            self._ledger.step_down(f"{name} has taken over")

    async def _by_claim(self, host: Host, head: Head, why: Accession) -> None:
        """Have the host claim the mastership of the store that it shares with this one."""
        name = host.name_label
        try:
            async with asyncio.timeout(TAKE_OVER_SECONDS):
                # What it still lacks it reads from the store's log.
                await self._agents.take_over(host.address, head, why, seconds=TAKE_OVER_SECONDS)
        except TimeoutError:
            raise _failed(name, f"it did not answer for {TAKE_OVER_SECONDS:g} s") from None
        except PoolError as error:
            raise _failed(name, error.message.rstrip(".")) from error

    async def _prepare(self, host: Host, incarnation: str) -> None:
        """Have the host copy the store's content while writes go on."""
        pool = self._ledger.state.pool.uuid
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                await self._agents.prepare_succession(
                    host.address, pool, incarnation, seconds=PREPARE_SECONDS
                )
        except TimeoutError:
            problem = f"its store was not ready after {PREPARE_SECONDS:g} s"
            raise _failed(host.name_label, problem) from None
        except PoolError as error:
            raise _failed(host.name_label, error.message.rstrip(".")) from error

    async def _by_succession(
        self, host: Host, head: Head, why: Accession, incarnation: str
    ) -> None:
        """End the store, with a last commit that makes the host found its successor.

        When that commit is made this mastership is over, whatever becomes of the host.
        """
        session = self._sessions.get(host.uuid)
        if session is None:
            raise _failed(host.name_label, "it is not connected any more")
        state = self._ledger.state
        # This host has that commit, in its store: until it is found to lack behind it is in step.
        last = succession(
            state,
            next_incarnation(state, uuid_=incarnation),
            host.uuid,
            why,
            term=head.term,
            in_step=head.master,
        )
        try:
            commit = await self._ledger.conclude(last)
        except PoolError as error:
            raise _failed(host.name_label, error.message.rstrip(".")) from error
        self._ledger.feed.offer([commit])
        with suppress(TimeoutError):
            async with asyncio.timeout(TAKE_OVER_SECONDS):
                await session.comes_to(commit.revision)

    async def to_the_best(self) -> None:
        """Hand over to the best of the attached hosts; `HANDOVER_FAILED` if there is none.

        To one in maintenance only if there is no other: it would be elected then anyway.
        """
        best = self.best(self._ledger.state, in_maintenance=True)
        if best is None:
            raise _failed("no other host", "none is connected that could")
        await self.to(best, Accession.HANDED_OVER)

    def best(self, state: State, *, in_maintenance: bool = False) -> Host | None:
        """The best of the attached hosts but the master; none if none could take over."""
        found: list[tuple[Session, Host]] = []
        for host in state.all(Host):
            session = self._sessions.get(host.uuid)
            if session is None or host.uuid == self._ledger.head.master:
                continue
            try:
                able = self.check(state, host.uuid, in_maintenance=in_maintenance)
                found.append((session, able))
            except PoolError:
                continue

        def rank(candidate: tuple[Session, Host]) -> tuple[bool, int, int, str]:
            session, host = candidate
            return preference(
                revision=session.applied,
                priority=host.failover_priority,
                host=host.uuid,
                in_maintenance=not host.enabled,
            )

        return min(found, key=rank, default=(None, None))[1]


def _failed(host: str, problem: str) -> PoolError:
    return PoolError(Reason.HANDOVER_FAILED, host=host, problem=problem)


@dataclass(frozen=True, slots=True)
class Designate:
    """The operation `pool.designate_master`; its task's params are `host` and `name`."""

    handover: Handover
    sessions: Sessions
    master: HostId

    name = "pool.designate_master"
    steps = (
        Step("started", Recovery.RESUME, 0.1, "the host catches up"),
        Step("handing-over", Recovery.COMPLETE, 0.5, "writes wait; the host takes over"),
    )

    def begin(self, pool: Pool, task: TaskId, host: HostId) -> Decide:
        """The decision that records a new handover; one to the present master is done with it."""

        def decide(state: State) -> Decision:
            other = running(state, self.name, host=host)
            if other is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(other),), result=other)
            target = state.get(Host, host)
            if host != self.master or target is None:
                target = self.handover.check(state, host)
            new = Task(
                uuid=task,
                name_label=f"Designate {target.name_label} as master",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(host=host, name=target.name_label),
                subject=host,
                created=pool.now(),
            )
            if host == self.master:
                new = ended(new, pool.now())
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Hand over, or see how an earlier mastership's handover ended."""
        host, name = HostId(task.params["host"]), task.params["name"]
        if task.status.is_final:
            return
        if host == self.master:
            await self._finish(pool, task)
            return
        if task.step == "handing-over":
            await self._finish(pool, task, _failed(name, "the master ended before it had"))
            return
        try:
            async with asyncio.timeout(RECONNECT_SECONDS):
                await self.sessions.attached_at(host, 0)
        except TimeoutError:
            pass  # The check refuses it, with the reason.
        target = self.handover.check(pool.state, host)
        await record(pool, self, task, "handing-over")
        try:
            await self.handover.to(
                target,
                Accession.DESIGNATED,
                announced=lambda: pool.reached(f"{self.name}:writes-wait"),
            )
        except PoolError as failure:
            await self._finish(pool, task, failure)

    async def _finish(self, pool: Pool, task: Task, failure: PoolError | None = None) -> None:
        def finish(state: State) -> Decision:
            found = current(state, task, cancellable=False)
            return Decision((Put(ended(found, pool.now(), failure)),))

        await pool.write(finish)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Nothing is to be undone: the old master has only waited."""

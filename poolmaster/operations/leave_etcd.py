"""Leaving the pool's own etcd: the store goes back to the disk of the master.

| step    | after a crash | what holds then                                                     |
|---------|---------------|---------------------------------------------------------------------|
| started | resume        | the task is recorded; the master copies what it has                 |
| moving  | complete      | the last commit in etcd may have been made; then the master has the |
|         |               | store, or nobody                                                    |

For a pool of less than three hosts, whose etcd could not lose any of them. As `found_etcd`, the
other way round; the etcds end when their hosts see that the pool has no voters any more.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, HostId, Task, TaskId
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.decide.in_step import candidate
from poolmaster.ledger import Decide, Decision, Ledger
from poolmaster.operations.steps import Pool, Recovery, Step, current, ended, record, surplus
from poolmaster.sessions import Sessions
from poolmaster.succession import next_incarnation, succession

COPY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LeaveEtcd:
    """The operation `pool.leave_etcd`; its task has no params."""

    agents: Agents
    ledger: Ledger
    sessions: Sessions
    master: HostId

    name = "pool.leave_etcd"
    steps = (
        Step("started", Recovery.RESUME, 0.2, "the store is copied to the master; writes go on"),
        Step("moving", Recovery.COMPLETE, 0.8, "writes wait; the pool goes on at the master"),
    )

    def begin(self, pool: Pool, task: TaskId) -> Decide:
        """The decision that records it."""

        def decide(state: State) -> Decision:
            new = Task(
                uuid=task,
                name_label="Leave the pool's etcd",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(),
                created=pool.now(),
            )
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Copy, and move; or see how an earlier mastership's move ended."""
        if task.step == "moving" or pool.state.pool.voters is None:
            await self._finish(pool, task)
            return
        here, incarnation = pool.state.host(self.master), str(uuid.uuid4())
        await self.agents.prepare_succession(
            here.address, pool.state.pool.uuid, incarnation, seconds=COPY_SECONDS
        )
        task = await record(pool, self, task, "moving")
        async with self.ledger.paused() as head:
            state = self.ledger.state
            last = succession(
                state,
                next_incarnation(state, uuid_=incarnation),
                self.master,
                Accession.SUCCESSION,
                term=head.term,
                # It has this commit as soon as it has read that it was made, or from etcd. A master
                # that was down has to ask it first if a person made it go on.
                in_step=self._second(state),
            )
            try:
                await self.ledger.conclude(last)
            except PoolError as error:
                failure = error
            else:
                self.ledger.step_down("the pool goes on at the master")
                return
        await self._finish(pool, task, failure)

    def _second(self, state: State) -> HostId | None:
        """The host that is to be in step from here on: it is kept so by the next mastership."""
        there = (session.host for session in self.sessions.all())
        return candidate(state, (host for host in there if host != self.master))

    async def _finish(self, pool: Pool, task: Task, failure: PoolError | None = None) -> None:
        def finish(state: State) -> Decision:
            problem = "the master ended before it was done"
            why = failure or PoolError(Reason.ETCD_NOT_FOUNDED, problem=problem)
            found = current(state, task, cancellable=False)
            done = ended(found, pool.now(), None if state.pool.voters is None else why)
            return Decision((Put(done),))

        await pool.write(finish)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Nothing is to be undone: a copy that nobody was told of is put aside with the next."""

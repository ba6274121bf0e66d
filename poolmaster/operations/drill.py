"""A failover drill: the mastership ends as if the master's machine hung, on request.

| step    | after a crash | what holds then                                                        |
|---------|---------------|------------------------------------------------------------------------|
| started | resume        | the task is recorded; nothing has been done                            |
| silent  | complete      | writes wait and no heartbeat is sent; another may be master by now     |

Nothing is handed over. The master keeps its sessions and says nothing, so the others have to notice
its silence, agree on it and elect one of them; it learns that its mastership is over as it would
after any pause, by reading `head`. Nobody claims in time: it speaks again and goes on, and the
drill has failed. A master that ends meanwhile is succeeded as ever, which is what a drill is for:
whoever is master when the task is resumed knows how it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from immutables import Map

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, Task, TaskId
from poolcore.outlook import HostRef
from poolcore.replica import Put, State
from poolmaster.decide.drill import next_master, obstacles
from poolmaster.decide.if_lost import LiveFacts
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
from poolmaster.sessions import Sessions

log = logging.getLogger(__name__)

BEHIND_SECONDS = 1.0
"""A member that has lacked something for so long is behind; for less, it is just being sent."""
CLAIM_SECONDS = 2.0
"""How long the others may take to elect one, once they have had the time to notice twice."""
LOOK_SECONDS = 0.05


class Drill:
    """The operation `pool.drill_failover`; its task's params are `host`, `name` and `term`."""

    name = "pool.drill_failover"
    steps = (
        Step("started", Recovery.RESUME, 0.1, "the pool is looked over once more"),
        Step("silent", Recovery.COMPLETE, 0.5, "the master is silent; writes wait"),
    )

    def __init__(
        self,
        ledger: Ledger,
        sessions: Sessions,
        facts: Callable[[State], LiveFacts],
        master: HostId,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._facts = facts
        self._master = master
        self._clock = clock
        self.silent = False
        """Whether members must not be told that their master is there."""

    def check(self, state: State, *, but: TaskId | None = None) -> HostRef:
        """Who is expected to be master next; `DRILL_REFUSED` with everything that is in the way.

        `but` is the drill's own task.
        """
        facts = self._facts(state)
        found = obstacles(state, facts, lagging=self._lagging(state), but=but)
        successor = next_master(state, facts)
        if found or successor is None:
            raise PoolError(Reason.DRILL_REFUSED, problem="; ".join(found))
        return successor

    def _lagging(self, state: State) -> frozenset[HostId]:
        sessions = ((host.uuid, self._sessions.get(host.uuid)) for host in state.all(Host))
        return frozenset(
            uuid
            for uuid, session in sessions
            if session is not None and self._sessions.lag_seconds(session) >= BEHIND_SECONDS
        )

    def begin(self, pool: Pool, task: TaskId, *, term: int) -> Decide:
        """The decision that records a new drill of the mastership of `term`."""

        def decide(state: State) -> Decision:
            present = self._ledger.head.term
            if term != present:
                problem = f"the present mastership is that of term {present}, not {term}"
                raise PoolError(Reason.DRILL_REFUSED, problem=problem)
            other = running(state, self.name, host=self._master)
            if other is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(other),), result=other)
            self.check(state)
            name = state.host(self._master).name_label
            new = Task(
                uuid=task,
                name_label=f"Failover drill of {name}",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(host=self._master, name=name, term=str(term)),
                subject=self._master,
                created=pool.now(),
            )
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Fall silent, or see how the silence of an earlier mastership ended."""
        if task.status.is_final:
            return
        if task.step == "silent":
            back = task.params["host"] == self._master
            failure = _failed(f"{task.params['name']} was the first to be it again")
            await self._finish(pool, task, failure if back else None)
            return
        if task.params["term"] != str(self._ledger.head.term):
            raise _failed("the master ended before the drill had begun")
        self.check(pool.state, but=task.uuid)
        task = await record(pool, self, task, "silent")
        seconds = await self._silence(pool)
        await self._finish(pool, task, _failed(f"nobody claimed within {seconds:g} s"))

    async def _silence(self, pool: Pool) -> float:
        """Say nothing until nobody has claimed for so many seconds; cancelled if somebody has."""
        seconds = 2 * pool.state.pool.failover.suspect_seconds + CLAIM_SECONDS
        async with self._ledger.paused():
            log.warning("silent for a drill, for up to %g s", seconds)
            self.silent = True
            try:
                pool.reached(f"{self.name}:writes-wait")
                until = self._clock.monotonic() + seconds
                while self._clock.monotonic() < until:
                    await self._clock.sleep(LOOK_SECONDS)
                    # That it is over is not said here: the ledger ends, and this task with it.
                    with suppress(PoolError):
                        await self._ledger.confirm()
            finally:
                self.silent = False
        return seconds

    async def _finish(self, pool: Pool, task: Task, failure: PoolError | None) -> None:
        def finish(state: State) -> Decision:
            found = current(state, task, cancellable=False)
            return Decision((Put(ended(found, pool.now(), failure)),))

        await pool.write(finish)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Nothing is to be undone: the master has only been silent."""


def _failed(problem: str) -> PoolError:
    return PoolError(Reason.DRILL_FAILED, problem=problem)

"""Taking a host in (design §9).

| step      | after a crash    | what holds then                                                |
|-----------|------------------|----------------------------------------------------------------|
| started   | resume           | the task is recorded; the host may or may not be reserved      |
| reserved  | resume           | the host takes no writes and belongs to itself                 |
| committed | complete         | the host is of the pool: its objects came with this very commit|
| adopted   | complete         | the host has turned into a member and is catching up           |

The commit of `committed` is the decision point: preflight is run again inside it, on facts taken
after the host reserved itself. Before it, everything is undone by releasing the host, and a host
that nobody releases asks how the join ended (`join_outcome`). After it, everything goes forward;
only a host that was reset in between, and so says that it holds no reservation, is taken out again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts
from poolcore.model import Finding, Host, HostId, Reservation, Task, TaskId
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.decide.gone import JOIN
from poolmaster.decide.inventory import departed, joined
from poolmaster.decide.preflight import preflight
from poolmaster.ledger import Decide, Decision
from poolmaster.operations.examine import Examiner
from poolmaster.operations.steps import (
    Pool,
    Recovery,
    Step,
    at,
    current,
    ended,
    record,
    retried,
    running,
    surplus,
)
from poolmaster.sessions import Sessions

log = logging.getLogger(__name__)

ATTACH_SECONDS = 5.0
"""After so long without a session, a host that was told to turn into a member is told again."""


@dataclass(frozen=True, slots=True)
class Join:
    """The operation `host.join`; its task's params are `endpoint`, `host` and `force`."""

    agents: Agents
    examiner: Examiner
    sessions: Sessions
    master: HostId
    store: Callable[[], str | None]
    """Tells the URL of the store if it is one that the pool's hosts share."""

    name = JOIN
    steps = (
        Step("started", Recovery.RESUME, 0.1, "the host reserves itself"),
        Step("reserved", Recovery.RESUME, 0.3, "the host is checked once more"),
        Step("committed", Recovery.COMPLETE, 0.6, "the host turns into a member"),
        Step("adopted", Recovery.COMPLETE, 0.9, "the host takes its replica"),
    )

    def begin(
        self, pool: Pool, task: TaskId, facts: HostFacts, endpoint: str, force: bool
    ) -> Decide:
        """The decision that records a new join."""

        def decide(state: State) -> Decision:
            other = running(state, self.name, host=facts.host)
            if other is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(other),), result=other)
            new = Task(
                uuid=task,
                name_label=f"Add host {facts.name_label}",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(endpoint=endpoint, host=facts.host, force="yes" if force else ""),
                created=pool.now(),
            )
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Take the task from its recorded step to its end."""
        if task.step in {"started", "reserved"}:
            task = await self._reserve_and_commit(pool, task)
        while True:
            try:
                task = await self._adopt(pool, task)
            except PoolError as error:
                if error.reason is not Reason.RESERVATION_GONE:
                    raise
                return await self._withdraw(pool, task, error)
            try:
                async with asyncio.timeout(ATTACH_SECONDS):
                    await self.sessions.attached_at(
                        HostId(task.params["host"]), pool.state.revision
                    )
                break
            except TimeoutError:
                # Perhaps it was reset meanwhile; then asking it again tells.
                continue
        pool.reached(f"{self.name}:attached")

        def decide(state: State) -> Decision:
            return Decision((Put(ended(current(state, task, cancellable=False), pool.now())),))

        await pool.write(decide)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Release the host. If that fails, the host finds out by asking (`join_outcome`)."""
        found = pool.state.get(Task, task.uuid)
        if found is None or found.step not in {"started", "reserved"}:
            return
        try:
            await self.agents.release(task.params["endpoint"], task.uuid)
        except PoolError:
            return

    async def _reserve_and_commit(self, pool: Pool, task: Task) -> Task:
        state = pool.state
        endpoint = task.params["endpoint"]
        reservation = Reservation(
            pool=state.pool.uuid,
            pool_name=state.pool.name_label,
            task=task.uuid,
            addresses=tuple(sorted(h.address for h in state.all(Host))),
        )
        measured = await self.examiner.measured(
            endpoint, lambda: self.agents.reserve(endpoint, reservation)
        )
        if measured.host != task.params["host"]:
            problem = f"it is another host by now, {measured.name_label}"
            raise PoolError(Reason.HOST_UNREACHABLE, address=endpoint, problem=problem)
        if task.step == "started":
            task = await record(pool, self, task, "reserved")
        facts = await self.examiner.reachability(state, measured)
        votes = await self.examiner.would_vote(state, facts, store=self.store())
        force = bool(task.params["force"])

        def decide(state: State) -> Decision:
            found = current(state, task)
            findings = preflight(state, facts, master=self.master, would_vote=votes, force=force)
            if any(f.blocks for f in findings):
                raise refusal(facts, findings)
            after = at(self, found, "committed", subject=facts.host, findings=findings)
            return Decision((*joined(state, facts, now=pool.now()), Put(after)), result=after)

        outcome = await pool.write(decide)
        pool.reached(f"{self.name}:committed")
        committed: Task = outcome.result
        return committed

    async def _adopt(self, pool: Pool, task: Task) -> Task:
        """Have the host turn into a member, however long it is away.

        `RESERVATION_GONE` when it says that it will not.
        """
        endpoint, uuid = task.params["endpoint"], pool.state.pool.uuid
        # It may even have become the master since: then it is no member that could be asked.
        if task.params["host"] != self.master:
            await retried(
                pool,
                lambda: self.agents.adopt(endpoint, task.uuid, uuid, self.store()),
                unless=frozenset({Reason.RESERVATION_GONE}),
            )
        return task if task.step == "adopted" else await record(pool, self, task, "adopted")

    async def _withdraw(self, pool: Pool, task: Task, error: PoolError) -> None:
        """Take out a host that was reset after the commit, and let the task fail, in one commit."""
        log.warning("task %s failed: %s", task.uuid, error.message)

        def decide(state: State) -> Decision:
            host = HostId(task.params["host"])
            gone = departed(state, host)[0] if state.get(Host, host) else ()
            found = current(state, task, cancellable=False)
            return Decision((*gone, Put(ended(found, pool.now(), error))))

        await pool.write(decide)


def refusal(facts: HostFacts, findings: tuple[Finding, ...]) -> PoolError:
    """The refusal of a host, with every finding."""
    blocking = sum(f.blocks for f in findings)
    return PoolError(
        Reason.JOIN_REFUSED,
        findings=findings,
        host=facts.name_label,
        count=str(blocking),
        found=str(len(findings)),
    )


def join_outcome(state: State, task: str, host: str) -> str:
    """How a join ended, for the host that is reserved for it: pending, committed or aborted.

    `state` must be fresh. A task that is gone or final never commits any more, so a host that is
    not of the pool then is not going to be.
    """
    if state.get(Host, host) is not None:
        return "committed"
    found = state.get(Task, task)
    if found is None or found.status.is_final:
        return "aborted"
    return "pending"

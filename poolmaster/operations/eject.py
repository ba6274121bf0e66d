"""Letting a host leave: it becomes a pool of its own again, with its own SRs.

| step     | after a crash | what holds then                                                     |
|----------|---------------|---------------------------------------------------------------------|
| started  | resume        | the task is recorded; the host is a member                          |
| evicted  | complete      | the host is not of the pool; it is told so by its session           |

The commit of `evicted` is the decision point and checks everything once more. The host learns of
it by its session (`poolmaster.sessions`), also after having been away, and founds its own pool from
its replica; the task ends when the host says that it belongs to another pool.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, Host, HostId, Task, TaskId
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.decide.gone import EJECT, EVICTED
from poolmaster.decide.inventory import departed
from poolmaster.ledger import Decide, Decision
from poolmaster.operations.steps import Pool, Recovery, Step, at, current, ended, running, surplus
from poolmaster.sessions import RECONNECT_SECONDS, Sessions

SHOWN_VMS = 5
LOOK_SECONDS = 0.02
GIVE_UP_VOTE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Eject:
    """The operation `host.eject`; its task's params are `host`, `name` and `endpoint`."""

    agents: Agents
    sessions: Sessions
    master: HostId

    name = EJECT
    steps = (
        Step("started", Recovery.RESUME, 0.1, "the host's objects leave the pool"),
        Step(EVICTED, Recovery.COMPLETE, 0.5, "the host founds its own pool"),
    )

    def begin(self, pool: Pool, task: TaskId, host: Host) -> Decide:
        """The decision that records a new eject; refuses what `evicted` would refuse."""

        def decide(state: State) -> Decision:
            other = running(state, self.name, host=host.uuid)
            if other is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(other),), result=other)
            self._check(state, host.uuid)
            new = Task(
                uuid=task,
                name_label=f"Eject host {host.name_label}",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(host=host.uuid, name=host.name_label, endpoint=host.address),
                subject=host.uuid,
                created=pool.now(),
            )
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Take the task from its recorded step to its end."""
        host = HostId(task.params["host"])
        if task.step == "started":
            await self._until_ready(pool, host)

            def evict(state: State) -> Decision:
                found = current(state, task)
                self._check(state, host)
                if state.pool.in_step == host:
                    raise PoolError(Reason.HOST_OFFLINE, host=state.host(host).name_label)
                if _votes(state, host):
                    problem = "the pool's etcd would lose its quorum without it"
                    name = state.host(host).name_label
                    raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=name, problem=problem)
                after = at(self, found, EVICTED)
                return Decision((*departed(state, host)[0], Put(after)), result=after)

            await pool.write(evict)
            pool.reached(f"{self.name}:{EVICTED}")
        await self._until_gone(pool, host, task.params["endpoint"])

        def finish(state: State) -> Decision:
            return Decision((Put(ended(current(state, task, cancellable=False), pool.now())),))

        await pool.write(finish)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Nothing is to be undone: until `evicted` nothing was done."""

    def _check(self, state: State, host: HostId) -> None:
        found = state.get(Host, host)
        if found is None:
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind="host", name=host)
        if host == self.master:
            raise PoolError(Reason.HOST_IS_MASTER, host=found.name_label)
        resident = sorted(vm.name_label for vm in state.all(VM) if vm.resident_on == host)
        if resident:
            more = "" if len(resident) <= SHOWN_VMS else " and others"
            raise PoolError(
                Reason.HOST_HAS_RESIDENT_VMS,
                host=found.name_label,
                count=str(len(resident)),
                vms=", ".join(resident[:SHOWN_VMS]) + more,
            )
        if self.sessions.get(host) is None:
            raise PoolError(Reason.HOST_OFFLINE, host=found.name_label)

    async def _until_ready(self, pool: Pool, host: HostId) -> None:
        """Until the host is attached, and its replica does not say that it is in step.

        A host that is cut off before it hears that it has left must not take itself for the one to
        go on from. One that does not come is refused by the decision.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(RECONNECT_SECONDS):
                await self.sessions.attached_at(host, 0)
                # Whoever keeps a replica in step finds the task.
                self.sessions.stir()
                while pool.state.pool.in_step == host:
                    await pool.sleep(LOOK_SECONDS)
                await self.sessions.attached_at(host, pool.state.revision)
            # Who keeps the voters finds the task, too. etcd takes a pause between two changes.
            async with asyncio.timeout(GIVE_UP_VOTE_SECONDS):
                while _votes(pool.state, host):
                    await pool.sleep(LOOK_SECONDS)

    async def _until_gone(self, pool: Pool, host: HostId, endpoint: str) -> None:
        """Until the host leads, or is in, another pool; it may be away for long."""
        pause = 0.02
        # If it is of this pool again, it had left, and has joined anew since.
        while pool.state.get(Host, host) is None:
            try:
                facts = (await self.agents.facts(endpoint)).facts
                left = facts.pool != pool.state.pool.uuid and not facts.booting
                if facts.host != host or left:
                    return
            except PoolError:
                # It restarts, or is away: it will be told by its next session.
                pass
            await pool.sleep(pause)
            pause = min(2 * pause, 2.0)


def _votes(state: State, host: HostId) -> bool:
    voters = state.pool.voters
    return voters is not None and host in voters.hosts

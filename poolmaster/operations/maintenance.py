"""Putting a host into maintenance, and ending that.

| step         | after a crash | what holds then                                                 |
|--------------|---------------|-----------------------------------------------------------------|
| started      | resume        | the task is recorded; the host is still enabled                 |
| handing-over | resume        | writes wait; another host may already be the master             |

The decision is the commit that disables the host. It ends the task, too, so that a host is never
found in maintenance with the task under way. A master hands the mastership over before: the next
one finds that the host is no longer the master, and commits. VMs stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Host, HostId, Task, TaskId
from poolcore.replica import Change, Put, State
from poolmaster.ledger import Decide, Decision
from poolmaster.operations.designate import Handover
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

HOSTS_NAMED = 3
"""A refusal says of so many hosts why they cannot take over."""


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The operation `host.maintenance`; its task's params are `host`, `name` and `force`."""

    handover: Handover
    sessions: Sessions
    master: HostId

    name = "host.maintenance"
    steps = (
        Step("started", Recovery.RESUME, 0.1, "the next master is chosen"),
        Step("handing-over", Recovery.RESUME, 0.5, "writes wait; the next master takes over"),
    )

    async def known(self, state: State, host: HostId) -> None:
        """Until it is known who could take over from `host`, if that is the master.

        Hosts get the time to come after a change of master before they count as away.
        """
        if host == self.master:
            for other in state.all(Host):
                await self.sessions.had_time(other.uuid)

    def begin(self, pool: Pool, task: TaskId, host: HostId, *, force: bool) -> Decide:
        """The decision that records a maintenance; unless a mastership is handed over, it is done.

        `NO_HOST_TO_LEAD` when `host` is the master and no other host can be; with `force` it then
        stays the master.
        """

        def decide(state: State) -> Decision:
            target = _host(state, host)
            other = running(state, self.name, host=host)
            if other is not None:
                # Written though nothing changes: the same request, repeated, is to find it.
                return Decision((Put(other),), result=other)
            new = self._task(pool, task, target, "Put {} into maintenance", force=force)
            if host == self.master:
                if self.handover.best(state) is not None:
                    return Decision((*surplus(state), Put(new)), result=new)
                if target.enabled and not force:
                    raise self._refusal(state, target)
            return self._done(pool, state, new, enabled=False)

        return decide

    def finish(self, pool: Pool, task: TaskId, host: HostId) -> Decide:
        """The decision that ends a maintenance, and one that is just being begun."""

        def decide(state: State) -> Decision:
            target = _host(state, host)
            new = self._task(pool, task, target, "End the maintenance of {}", force=False)
            begun = running(state, self.name, host=host)
            decision = self._done(pool, state, new, enabled=True)
            if begun is None:
                return decision
            called_off = PoolError(Reason.TASK_CANCELLED, task=begun.uuid)
            changes = (*decision.changes, Put(ended(begun, pool.now(), called_off)))
            return Decision(changes, result=decision.result)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Hand over if need be, and disable the host."""
        if task.status.is_final:
            return
        host = HostId(task.params["host"])
        await self.known(pool.state, host)
        if host == self.master and not await self._stays(pool, task):
            # The next master goes on with the task.
            return

        def decide(state: State) -> Decision:
            return self._done(pool, state, current(state, task), enabled=False)

        await pool.write(decide)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """Nothing is to be undone: a master that did not hand over has only waited."""

    async def _stays(self, pool: Pool, task: Task) -> bool:
        """Hand the mastership over; whether it stays here, as it may if that is forced."""
        target = _host(pool.state, task.params["host"])
        best, force = self.handover.best(pool.state), bool(task.params["force"])
        if best is None:
            if force:
                return True
            raise self._refusal(pool.state, target)
        await record(pool, self, task, "handing-over")
        try:
            await self.handover.to(
                best,
                Accession.HANDED_OVER,
                announced=lambda: pool.reached(f"{self.name}:writes-wait"),
            )
        except PoolError as error:
            if not force or error.reason is not Reason.HANDOVER_FAILED:
                raise
            return True
        return False

    def _task(self, pool: Pool, task: TaskId, host: Host, label: str, *, force: bool) -> Task:
        return Task(
            uuid=task,
            name_label=label.format(host.name_label),
            operation=self.name,
            step="started",
            progress=self.steps[0].progress,
            params=Map(host=host.uuid, name=host.name_label, force="yes" if force else ""),
            subject=host.uuid,
            created=pool.now(),
        )

    def _done(self, pool: Pool, state: State, task: Task, *, enabled: bool) -> Decision:
        host = _host(state, task.params["host"])
        done = ended(task, pool.now())
        changed: tuple[Change, ...] = ()
        if host.enabled != enabled:
            changed = (Put(replace(host, enabled=enabled)),)
        return Decision((*surplus(state), *changed, Put(done)), result=done)

    def _refusal(self, state: State, host: Host) -> PoolError:
        why = list(islice(self._obstacles(state), HOSTS_NAMED + 1))
        named = [*why[:HOSTS_NAMED], *("…" for _ in why[HOSTS_NAMED:])]
        problem = "; ".join(named) or "there is none"
        return PoolError(Reason.NO_HOST_TO_LEAD, host=host.name_label, problem=problem)

    def _obstacles(self, state: State) -> Iterator[str]:
        """Why each of the other hosts cannot take over."""
        for host in sorted(state.all(Host), key=lambda h: (h.name_label, h.uuid)):
            if host.uuid != self.master:
                try:
                    self.handover.check(state, host.uuid)
                except PoolError as error:
                    yield error.message.rstrip(".")


def _host(state: State, uuid: str) -> Host:
    found = state.get(Host, uuid)
    if found is None:
        raise PoolError(Reason.OBJECT_NOT_FOUND, kind="host", name=uuid)
    return found

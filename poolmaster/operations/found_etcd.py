"""Founding the pool's own etcd: the store moves there from the disk of the master.

| step    | after a crash | what holds then                                                      |
|---------|---------------|----------------------------------------------------------------------|
| started | resume        | the task is recorded; etcd starts at the voters                       |
| copying | resume        | the etcd answers, with no register in it: it is nobody's store        |
| moving  | complete      | the store's last commit may have been made; then the chain goes on in |
|         |               | etcd, or nowhere                                                      |

The decision is that last commit (`poolmaster.succession`): it names the voters, and makes the very
host the heir that has the store. So the pool is in one of the two at any time, and whoever is
master when the task is resumed knows how it ended: the pool has the voters, or has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Host, HostId, Task, TaskId, Voters
from poolcore.replica import Put, State
from poolmaster.agents import Agents
from poolmaster.ledger import Decide, Decision, Ledger
from poolmaster.operations.steps import Pool, Recovery, Step, current, ended, record, surplus
from poolmaster.own_etcd import peer_address, store_url, voters_of
from poolmaster.succession import next_incarnation, succession

START_SECONDS = 60.0
"""How long the members may take to find each other."""
COPY_SECONDS = 60.0
"""How long copying may take; writes go on meanwhile."""
PAUSE_SECONDS = 0.5
_MOVING = "moving"


@dataclass(frozen=True, slots=True)
class FoundEtcd:
    """The operation `pool.found_etcd`; its task's params are `token` and `voters`, uuids."""

    agents: Agents
    ledger: Ledger
    master: HostId
    has_store: bool
    """Whether the store is at the master alone."""

    name = "pool.found_etcd"
    steps = (
        Step("started", Recovery.RESUME, 0.1, "etcd starts at the hosts that are to vote"),
        Step("copying", Recovery.RESUME, 0.4, "the store is copied; writes go on"),
        Step(_MOVING, Recovery.COMPLETE, 0.8, "writes wait; the pool goes on in its etcd"),
    )

    def begin(self, pool: Pool, task: TaskId, token: str, voters: Sequence[HostId]) -> Decide:
        """The decision that records a founding by those hosts, the master among them."""

        def decide(state: State) -> Decision:
            hosts = [state.host(uuid) for uuid in sorted(voters)]
            names = ", ".join(host.name_label for host in hosts)
            new = Task(
                uuid=task,
                name_label=f"Found the pool's etcd at {names}",
                operation=self.name,
                step="started",
                progress=self.steps[0].progress,
                params=Map(token=token, voters=",".join(sorted(voters))),
                created=pool.now(),
            )
            return Decision((*surplus(state), Put(new)), result=new)

        return decide

    async def run(self, pool: Pool, task: Task) -> None:
        """Start the members, copy, move; or see how an earlier mastership's founding ended."""
        if task.step == _MOVING:
            await self._finish(pool, task)
            return
        if not self.has_store:
            raise _failed("the store is not at the master any more")
        voters = Voters(task.params["token"], _uuids(task))
        hosts = self._hosts(pool.state, voters)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._start(pool, voters, hosts)
        except TimeoutError:
            raise _failed(f"a voter did not start within {START_SECONDS:g} s") from None
        task = await record(pool, self, task, "copying")
        url = store_url(hosts, near=self.master)
        await self._copy(pool, voters.token, url)
        task = await record(pool, self, task, _MOVING)
        await self._move(pool, task, voters)

    async def _start(self, pool: Pool, voters: Voters, hosts: Iterable[Host]) -> None:
        members = tuple((host.uuid, peer_address(host)) for host in hosts)
        since = pool.state.reach
        for host in hosts:
            await self.agents.start_voter(
                host.address, pool.state.pool.uuid, voters.token, members, since=since
            )

    async def _copy(self, pool: Pool, token: str, url: str) -> None:
        """Have this very host copy its store; the members may still be looking for each other."""
        here = pool.state.host(self.master).address
        problem = "it has no quorum"
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS + COPY_SECONDS):
                while True:
                    try:
                        return await self.agents.prepare_succession(
                            here, pool.state.pool.uuid, token, store=url, seconds=COPY_SECONDS
                        )
                    except PoolError as error:
                        problem = error.message.rstrip(".")
                    await pool.sleep(PAUSE_SECONDS)
        raise _failed(problem)

    async def _move(self, pool: Pool, task: Task, voters: Voters) -> None:
        async with self.ledger.paused() as head:
            state = self.ledger.state
            try:
                self._hosts(state, voters)
                last = succession(
                    state,
                    next_incarnation(state, uuid_=voters.token),
                    self.master,
                    Accession.SUCCESSION,
                    term=head.term,
                    # It lacks this very commit, which changes nothing that anybody has asked for.
                    in_step=state.pool.in_step,
                    voters=voters,
                )
                await self.ledger.conclude(last)
            except PoolError as error:
                failure = error
            else:
                self.ledger.step_down("the pool goes on in its etcd")
                return
        await self._finish(pool, task, failure)

    async def _finish(self, pool: Pool, task: Task, failure: PoolError | None = None) -> None:
        token = task.params["token"]

        def finish(state: State) -> Decision:
            voters = state.pool.voters
            done = voters is not None and voters.token == token
            why = None if done else failure or _failed("the master ended before it was done")
            found = current(state, task, cancellable=False)
            return Decision((Put(ended(found, pool.now(), why)),), result=done)

        outcome = await pool.write(finish)
        if not outcome.result:
            await self.undo(pool, task)
        pool.reached(f"{self.name}:done")

    async def undo(self, pool: Pool, task: Task) -> None:
        """End the members that have been started; those out of reach end them by themselves."""
        for uuid in _uuids(task):
            host = pool.state.get(Host, uuid)
            if host is not None:
                with suppress(PoolError):
                    await self.agents.stop_voter(
                        host.address, pool.state.pool.uuid, task.params["token"]
                    )

    def _hosts(self, state: State, voters: Voters) -> list[Host]:
        hosts = voters_of(state, voters)
        if len(hosts) < len(voters.hosts):
            raise _failed("a host that was to vote has left the pool")
        return hosts


def moving_to(state: State) -> Voters | None:
    """Who votes in the etcd that the store is about to move to, or has just moved to."""
    for task in state.all(Task):
        if task.operation == FoundEtcd.name and task.step == "moving" and not task.status.is_final:
            return Voters(task.params["token"], _uuids(task))
    return None


def _uuids(task: Task) -> tuple[HostId, ...]:
    return tuple(HostId(uuid) for uuid in task.params["voters"].split(","))


def _failed(problem: str) -> PoolError:
    return PoolError(Reason.ETCD_NOT_FOUNDED, problem=problem)


def is_moving(state: State) -> bool:
    """Whether the store was about to move: by now the others may go on in the pool's etcd."""
    tasks = (t for t in state.all(Task) if t.operation == FoundEtcd.name and t.step == _MOVING)
    return state.pool.voters is None and any(not task.status.is_final for task in tasks)

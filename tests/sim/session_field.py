"""A master with its ledger and sessions, and a member, for tests of what passes between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from immutables import Map

from poolcore.model import (
    VM,
    Address,
    AddressPurpose,
    PoolId,
    Task,
    TaskId,
)
from poolcore.replica import Put, State, dump
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.claiming import claim
from poolmaster.decide.inventory import departed
from poolmaster.ledger import Decision, Ledger
from poolmaster.mastership import found
from poolmaster.sessions import Sessions
from poolmaster.store.memory import MemoryStore, MemoryStoreData
from poolmember.session import Follower, Session
from sim.host import Hypervisor
from sim.machine import simulate
from support.memory_replica import MemoryReplica, ReplicaContent
from support.small_pool import IGNITE, INCARNATION, PHANTOM, POOL, THEN, WEB1, small_pool
from support.virtual_clock import VirtualClock

ENDPOINT = "127.0.0.2:7443"
EJECT = Task(
    uuid=TaskId("80000000-0000-4000-8000-000000000001"),
    name_label="Eject host ignite",
    operation="host.eject",
    step="evicted",
    params=Map(host=IGNITE, endpoint=ENDPOINT),
    created=THEN,
)


@dataclass
class Field:
    """A master with its ledger and sessions, and a member that is ready to follow it."""

    clock: VirtualClock
    store: MemoryStore
    ledger: Ledger
    sessions: Sessions
    content: ReplicaContent = field(default_factory=lambda: ReplicaContent(PoolId(POOL)))
    hypervisor: Hypervisor = field(default_factory=lambda: Hypervisor(ENDPOINT))
    told: list[pb.SessionRequest] = field(default_factory=list)
    """What the member has told the master."""

    async def member(self) -> Follower:
        """The member, as after a start of its daemon."""
        await self.hypervisor.open(IGNITE)
        follower = Follower(
            host=IGNITE,
            pool=PoolId(POOL),
            addresses=(Address(purpose=AddressPurpose.MANAGEMENT, endpoint=ENDPOINT),),
            store=MemoryReplica(self.content),
            clock=self.clock,
        )
        await follower.load()
        return follower

    async def link(self, requests: AsyncIterator[pb.SessionRequest], send: Any) -> None:
        """Straight to the master, noting what the member tells."""

        async def noted() -> AsyncIterator[pb.SessionRequest]:
            async for request in requests:
                self.told.append(request)
                yield request

        await self.sessions.serve(noted(), send)

    @asynccontextmanager
    async def attached(self, follower: Follower) -> AsyncIterator[asyncio.Task[None]]:
        """A session that runs as long as the block."""
        session = Session(follower, self.hypervisor, on_welcome=lambda: None)
        running = asyncio.ensure_future(session.run(self.link))  # noqa: TID251 - awaited below
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def rename(self, name: str) -> int:
        """A small write; its revision."""

        def decide(state: State) -> Decision:
            vm = state.get(VM, WEB1)
            assert vm is not None
            return Decision((Put(replace(vm, name_label=name)),))

        return (await self.ledger.write(decide)).revision

    async def evict(self) -> None:
        """Commit that the member is of the pool no more."""
        await self.ledger.write(lambda state: Decision((*departed(state, IGNITE)[0], Put(EJECT))))

    async def in_step(self, follower: Follower) -> None:
        """Wait until the member has all there is, and the master knows it."""
        async with asyncio.timeout(10):
            await self.sessions.attached_at(IGNITE, self.ledger.state.revision)
        assert follower.state is not None
        assert dump(follower.state) == dump(self.ledger.state)
        assert self.content.state == self.ledger.state


def played(
    scenario: Callable[[Field], Coroutine[Any, Any, None]], *, history: int = 10_000
) -> None:
    async def main(clock: VirtualClock) -> None:
        store = MemoryStore(MemoryStoreData(), clock=clock)
        objects = [
            replace(o, history_revisions=history) if o.uuid == POOL else o  # type: ignore[call-arg]
            for o in small_pool().objects()
        ]
        await found(store, INCARNATION, PHANTOM, tuple(objects))
        claimed = await claim(store, PHANTOM)
        head, state = claimed.head, claimed.state
        ledger = Ledger(store, head, state, clock=clock)
        sessions = Sessions(ledger, clock=clock)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(ledger.run())
            await scenario(Field(clock, store, ledger, sessions))
            running.cancel()

    simulate(scenario.__qualname__, main)

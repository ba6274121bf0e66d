"""A host's promise to the pool that takes it in: made, kept until the join ends, and given up.

The promise is a field of the host's own pool object, so it survives the daemon. While it holds, the
pool of one takes no other writes (`docs/adr/0007-joining-and-leaving-without-a-coordinator.md`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.model import Host, Reservation, Task
from poolcore.replica import Put, State
from poolmanager.v1 import pool_service_pb2
from poolmaster.ledger import Decision
from poolmaster.mastership import Mastership
from poolmember.home import Home, Network
from poolmember.identity import Member


def running(state: State) -> list[Task]:
    """The tasks that have not ended."""
    return [task for task in state.all(Task) if not task.status.is_final]


class Reserving:
    """The promises of one host."""

    def __init__(self, home: Home, network: Network, clock: Clock) -> None:
        self._home = home
        self._network = network
        self._clock = clock

    async def reserve(self, reservation: Reservation) -> None:
        """Promise this host; nothing happens if that has been done for the same task."""
        master = self._master_of_one()

        def decide(state: State) -> Decision:
            present = state.pool.reservation
            if present is not None:
                if present.task == reservation.task:
                    return Decision(())
                name = self._home.identity.name
                raise PoolError(Reason.HOST_RESERVED, host=name, pool_name=present.pool_name)
            if sum(1 for _ in state.all(Host)) > 1:
                raise PoolError(Reason.HOST_IS_MASTER, host=self._home.identity.name)
            for task in running(state):
                raise PoolError(Reason.JOIN_IN_PROGRESS, task=task.uuid, host=task.name_label)
            return Decision((Put(replace(state.pool, reservation=reservation)),))

        await master.write(decide, while_reserved=True)
        self._home.reached("host.join:host-reserved")

    def _master_of_one(self) -> Mastership:
        master = self._home.mastership
        if master is not None:
            return master
        membership = self._home.identity.membership
        if isinstance(membership, Member):
            raise PoolError(Reason.HOST_IS_SLAVE, master=", ".join(membership.addresses))
        raise PoolError(Reason.NO_MASTER, host=self._home.identity.name, problem="it still starts")

    async def release(self, task: str) -> None:
        """End the promise for that task, if there is one."""
        if self._home.mastership is not None:
            await self._end_reservation(self._home.mastership, task)

    async def _end_reservation(self, master: Mastership, task: str) -> None:
        def decide(state: State) -> Decision:
            present = state.pool.reservation
            if present is None or present.task != task:
                return Decision(())
            return Decision((Put(replace(state.pool, reservation=None)),))

        await master.write(decide, while_reserved=True)

    async def adopt(self, task: str, pool: str, store: str | None) -> None:
        """Turn into a member of `pool`, which has committed the join; durable on return."""
        membership = self._home.identity.membership
        if isinstance(membership, Member):
            if membership.pool == pool:
                return
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        # While the host starts, or is just turning, nobody may conclude that it will not turn.
        reservation = self._master_of_one().state.pool.reservation
        if reservation is None or reservation.task != task:
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        # Whoever says that the join was committed, the pool itself is asked.
        if await self._join_outcome(reservation) != pool_service_pb2.JOIN_OUTCOME_COMMITTED:
            raise PoolError(Reason.RESERVATION_GONE, host=self._home.identity.name)
        await self._turn(reservation, store)

    async def _turn(self, reservation: Reservation, store: str | None) -> None:
        self._home.reached("host.join:host-committed")
        await self._home.become(
            Member(
                pool=reservation.pool,
                pool_name=reservation.pool_name,
                addresses=reservation.addresses,
                store=store,
            )
        )
        self._home.reached("host.join:host-member")

    async def settle(self, master: Mastership, *, ask_after: float = 2.0) -> None:
        """See to it that a promise ends even if nobody ends it: ask the pool how the join ended.

        Runs as long as the mastership. One that an earlier mastership left is asked about at once.
        """
        left_over = master.state.pool.reservation
        while True:
            reservation = master.state.pool.reservation
            if reservation is None:
                await master.ledger.feed.wait(master.state.revision)
                continue
            if reservation is not left_over:
                await self._clock.sleep(ask_after)
            left_over = None
            if master.state.pool.reservation != reservation:
                continue
            try:
                outcome = await self._join_outcome(reservation)
                # A committed one needs nothing here: the pool repeats Adopt, which names the store.
                if outcome == pool_service_pb2.JOIN_OUTCOME_ABORTED:
                    await self._end_reservation(master, reservation.task)
            except PoolError:
                # As long as nobody can tell, or the store refuses to note it, the promise holds.
                continue

    async def _join_outcome(self, reservation: Reservation) -> Any:
        request = pool_service_pb2.GetJoinRequest(
            task=reservation.task, host=self._home.identity.host
        )
        problem = PoolError(Reason.NO_HOST_ANSWERS, addresses=", ".join(reservation.addresses))
        for endpoint in reservation.addresses:
            try:
                response = await self._network.get_join(endpoint, request)
            except PoolError as error:
                problem = error
                continue
            if response.pool == reservation.pool:
                return response.outcome
        raise problem

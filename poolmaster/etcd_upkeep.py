"""Looking after the etcd that a pool's store is in, beside the mastership.

The pool's own is kept small, and gets room when it is full. Of somebody else's is told what is too
small there (`poolmaster.decide.etcd_upkeep`). A look is one call to each member, which it answers
from memory.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

import grpc

from poolcore.clock import Clock
from poolcore.outlook import Warning
from poolmaster.decide.etcd_upkeep import (
    Compact,
    Defragment,
    MakeRoom,
    Member,
    MoveLeader,
    Since,
    Wait,
    limit_warnings,
    next_step,
    warnings,
)
from poolmaster.store.contract import StoreError
from poolmaster.store.etcd import room
from poolmaster.store.etcd.cluster import Cluster
from poolmaster.store.etcd.limits import REQUEST_BYTES, TXN_OPERATIONS, limits_of
from poolmaster.store.etcd.membership import members

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
LIMITS_SECONDS = 600.0
"""How often the limits of somebody else's etcd are asked for; they change with its restart only."""


class EtcdUpkeep:
    """See the module's docstring. `is_own` says whether it is the pool's own."""

    def __init__(self, cluster: Cluster, *, is_own: Callable[[], bool], clock: Clock) -> None:
        self._cluster = cluster
        self._is_own = is_own
        self._clock = clock
        self._defragmented = self._compacted = self._made_room = -math.inf
        self._limits_asked = -math.inf
        self._room: tuple[Warning, ...] = ()
        self._limits: tuple[Warning, ...] = ()

    @property
    def warnings(self) -> tuple[Warning, ...]:
        """What a person is to know of it, as of the last look."""
        return (*self._room, *self._limits)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            # A mastership that has just begun has more urgent things to ask its store.
            await self._clock.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except (StoreError, grpc.aio.AioRpcError) as error:
                log.info("the room in etcd stays as it is for now: %s", error)

    async def _look(self) -> None:
        own = self._is_own()
        found = await self._own_members() if own else await self._their_members()
        self._room = tuple(warnings(found, own=own))
        if own:
            self._limits = ()
            await self._take(found)
        elif self._clock.monotonic() - self._limits_asked >= LIMITS_SECONDS:
            await self._ask_limits()

    async def _own_members(self) -> list[Member]:
        found = await members(self._cluster)
        asked = (self._member(m.client, id_=m.id, votes=not m.learner) for m in found)
        return list(await asyncio.gather(*asked))

    async def _their_members(self) -> list[Member]:
        asked = (self._member(endpoint.address) for endpoint in self._cluster.endpoints)
        return list(await asyncio.gather(*asked))

    async def _member(self, address: str, *, id_: int = 0, votes: bool = True) -> Member:
        found = None
        if address:
            async with self._cluster.at(address) as endpoint:
                found = await room.room_of(self._cluster, endpoint)
        if found is None:
            return Member(id=id_, address=address, answers=False, votes=votes)
        return Member(
            id=found.id,
            address=address,
            votes=votes,
            leads=found.leader == found.id,
            size_bytes=found.size_bytes,
            in_use_bytes=found.in_use_bytes,
            quota_bytes=found.quota_bytes,
            full=found.full,
        )

    async def _take(self, found: list[Member]) -> None:
        now = self._clock.monotonic()
        since = Since(
            defragmented=now - self._defragmented,
            compacted=now - self._compacted,
            made_room=now - self._made_room,
        )
        match next_step(found, since):
            case Wait():
                return
            case Compact():
                self._compacted = now
                await room.compact(self._cluster)
            case Defragment(address):
                async with self._cluster.at(address) as endpoint:
                    await room.defragment(self._cluster, endpoint)
                self._defragmented = self._clock.monotonic()
            case MoveLeader(address, to):
                async with self._cluster.at(address) as endpoint:
                    await room.move_leader(endpoint, to)
            case MakeRoom():
                self._made_room = now
                await room.make_room(self._cluster)

    async def _ask_limits(self) -> None:
        found: list[Warning] = []
        for endpoint in self._cluster.endpoints:
            try:
                limits = await limits_of(endpoint)
            except grpc.aio.AioRpcError as error:
                log.info("%s does not tell its limits: %s", endpoint.address, error.details())
                continue
            found += limit_warnings(
                endpoint.address,
                fewer_operations=limits.fewer_operations,
                request_bytes=limits.request_bytes,
                asked=(TXN_OPERATIONS, REQUEST_BYTES),
            )
        self._limits, self._limits_asked = tuple(found), self._clock.monotonic()

"""The roles of a host, one after the other: leading its pool, or following another host that does.

A role runs until the host's membership changes; then it gives everything back and says what the
host becomes. Which role a host has is decided by its membership (`poolmember.identity`); hosts that
share their pool's store find out among themselves (`poolmember.sharing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from poolmember.following import Forgotten, follow
from poolmember.forgotten import stand_aside
from poolmember.founding import found_pool
from poolmember.identity import Member, Own
from poolmember.leading import lead
from poolmember.parts import Change, Parts
from poolmember.sharing import contend
from poolmember.state_dir import REPLICA_FILE, STORE_FILE

Turn = Callable[[], Awaitable[Change]]
"""What is done between two roles, and what the host becomes by it."""


class Roles:
    """Runs the host's roles: what its membership says, and what becomes of that."""

    def __init__(self, parts: Parts, *, shared_store: str | None) -> None:
        self._parts = parts
        self._shared_store = shared_store
        self._turns: asyncio.Queue[tuple[Turn, asyncio.Future[None]]] = asyncio.Queue()

    async def become(self, membership: Member) -> None:
        """Turn into a member of a pool; returns when that is durable."""

        async def change() -> Change:
            return Change(membership, (STORE_FILE, REPLICA_FILE))

        await self.turn(change)

    async def turn(self, turn: Turn) -> None:
        """End the present role and take the change that `turn` comes to; durable on return.

        What `turn` raises is raised here, and the host's role begins anew.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.put_nowait((turn, done))
        await done

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            membership = self._parts.identity.membership
            if membership is None:
                self._take_on(await found_pool(self._parts, self._shared_store))
            else:
                await self._until_changed(membership)

    async def _until_changed(self, membership: Own | Member) -> None:
        role = asyncio.ensure_future(self._role(membership))  # noqa: TID251 - awaited below
        asked = asyncio.ensure_future(self._turns.get())  # noqa: TID251 - awaited below
        try:
            await asyncio.wait([role, asked], return_when=asyncio.FIRST_COMPLETED)
            ended = role.done()
        finally:
            for task in (role, asked):
                task.cancel()
            await asyncio.gather(role, asked, return_exceptions=True)
        if not ended:
            await self._take_turn(membership, *asked.result())
            return
        if not asked.cancelled():
            # What was asked for at the same time is done when the next role has begun.
            self._turns.put_nowait(asked.result())
        change = role.result()
        if change.membership != membership:
            self._take_on(change)

    async def _take_turn(
        self, membership: Own | Member, turn: Turn, done: asyncio.Future[None]
    ) -> None:
        try:
            change = await turn()
            # Asked for twice, the second time there is nothing to do, and nothing to retire.
            if change.membership != membership:
                self._take_on(change)
        except Exception as error:  # whatever it is, it is for whoever asked
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(None)

    async def _role(self, membership: Own | Member) -> Change:
        try:
            if membership.store is not None:
                return await contend(self._parts, membership)
            if isinstance(membership, Member):
                return await follow(self._parts, membership)
        except Forgotten as told:
            await stand_aside(self._parts, membership, pool_name=str(told))
        return await lead(self._parts, membership)

    def _take_on(self, change: Change) -> None:
        identity = replace(self._parts.identity, membership=change.membership)
        self._parts.files.write_identity(identity, retire=change.retire)

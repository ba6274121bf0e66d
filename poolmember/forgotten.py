"""The role of a host that its pool has forgotten: none, until a person says what it is to be.

It asks for no session, stands in no election and founds nothing: its VMs may run elsewhere by now,
and what it holds may be what somebody wants to look at. It answers reads from its replica, refuses
the rest, and says why.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NoReturn

from poolcore.errors import PoolError, Reason
from poolmember.identity import Membership
from poolmember.parts import Parts

log = logging.getLogger(__name__)


async def stand_aside(parts: Parts, membership: Membership, *, pool_name: str) -> NoReturn:
    """Do nothing for the pool any more; ends only by being cancelled."""
    name = parts.identity.name
    refusal = PoolError(Reason.HOST_FORGOTTEN, host=name, pool=pool_name)
    log.error("%s %s", refusal.message, refusal.remedy)
    parts.forgotten = refusal
    try:
        async with parts.following(membership.pool) as follower:
            await follower.load()
            parts.gateway.serve_locally(
                parts.answer_from_replica(follower, lambda: refusal.message, refusal=refusal)
            )
            parts.on_role(f"forgotten by pool {pool_name}, and does nothing for it")
            await asyncio.get_running_loop().create_future()
    finally:
        parts.forgotten = None
    raise AssertionError("nothing ends the wait")

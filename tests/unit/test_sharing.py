"""Opening the store that hosts share: what keeps a host waiting, and what ends its daemon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from poolcore.clock import SystemClock
from poolcore.errors import PoolError, Reason
from poolmaster.store.contract import StoreUnavailable
from poolmember.identity import Member
from poolmember.session import Follower
from poolmember.sharing import _open
from support.hosts.facts import NAMES, POOL, facts, host_id, pool_of

STATE = pool_of(*map(facts, NAMES[:3]))
"""Before it has heard that the store is in the pool's own etcd."""


def parts(cluster: tuple[str, str] | None) -> Any:
    """A host whose store is not where it was found, and what its etcd is a member of."""

    async def open_store(_: Member) -> None:
        raise PoolError(Reason.STORE_MISSING, pool=POOL, store="etcd:")

    member = Member(pool=POOL, pool_name="", addresses=(), store="etcd:127.0.0.1:7444")
    return SimpleNamespace(
        identity=SimpleNamespace(membership=member),
        files=SimpleNamespace(open_store=open_store),
        voter=SimpleNamespace(cluster=cluster),
    )


def follower() -> Follower:
    nothing: Any = None
    return Follower(host_id("ignite"), POOL, (), nothing, SystemClock(), state=STATE)


async def test_a_voter_that_found_the_store_by_itself_waits_for_it() -> None:
    """Another etcd is being founded where it was, and has no store yet."""
    with pytest.raises(StoreUnavailable):
        await _open(parts(("token", "etcd:127.0.0.1:7444")), follower(), STATE.incarnation)


async def test_somebody_else_s_store_that_is_gone_is_told() -> None:
    with pytest.raises(PoolError):
        await _open(parts(None), follower(), STATE.incarnation)

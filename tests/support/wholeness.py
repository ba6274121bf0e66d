"""Whether a host is wholly in a pool or wholly out of it, and nothing is left half-made."""

from __future__ import annotations

import asyncio

from poolcore.model import PBD, Host, HostId, PoolId, Task
from poolcore.replica import State, dump
from poolmember.identity import Identity, Member, Own
from poolmember.state_dir import read_identity
from support import daemons
from support.dangling import dangling

SRS_OF_ONE_HOST = 3
WAIT_SECONDS = 20.0


def identity_of(host: daemons.Host) -> Identity:
    """What the host's own `host.json` says."""
    identity = read_identity(host.state_dir)
    assert identity is not None
    return identity


def at_rest(state: State) -> bool:
    """Nothing is under way in the pool."""
    return state.pool.reservation is None and all(t.status.is_final for t in state.all(Task))


async def is_in(host: daemons.Host, pool: daemons.Host, *, srs: int = SRS_OF_ONE_HOST) -> bool:
    """Whether `host` is a member of the pool whose master is `pool`, once nothing is under way.

    Checks that either way it is so wholly: at both hosts, in memory and on disk. `srs` is how many
    it has.
    """
    uuid = identity_of(host).host
    async with pool.api() as at_pool, host.api() as at_host:
        joined = await at_pool.until(at_rest)
        member = joined.get(Host, uuid) is not None
        ours = joined.pool.uuid
        own = await at_host.until(lambda s: at_rest(s) and (s.pool.uuid == ours) is member)
        _check_pool(joined)
        _check_pool(own)
        if member:
            _check_member(joined, uuid, srs)
        else:
            _check_stranger(joined, own, uuid, srs)
    _check_identity(identity_of(host), ours, member=member)
    await same_replicas(pool, *([host] if member else []))
    if not member:
        await same_replicas(host)
    return member


def _check_pool(state: State) -> None:
    assert dangling(state) == []
    pbds = [(pbd.host, pbd.sr) for pbd in state.all(PBD)]
    assert len(pbds) == len(set(pbds)), "a host is connected to an SR twice"


def _check_member(pool: State, host: HostId, srs: int) -> None:
    brought = [pbd for pbd in pool.all(PBD) if pbd.host == host]
    assert len(brought) == srs, brought


def _check_stranger(pool: State, own: State, host: HostId, srs: int) -> None:
    traces = [o for o in pool.objects() if getattr(o, "host", None) == host]
    assert traces == [], "something of the host is still in the pool"
    assert [h.uuid for h in own.all(Host)] == [host], "the host is alone in its own pool"
    assert len(list(own.all(PBD))) == srs


def _check_identity(identity: Identity, pool: PoolId, *, member: bool) -> None:
    if member:
        assert isinstance(identity.membership, Member)
        assert identity.membership.pool == pool
    else:
        assert isinstance(identity.membership, Own)
        assert identity.membership.pool != pool


async def same_replicas(master: daemons.Host, *members: daemons.Host) -> None:
    """Until the replicas of these hosts are what the master has, byte for byte."""
    async with master.api() as api, asyncio.timeout(WAIT_SECONDS):
        for host in (master, *members):
            # A file tells nobody that it has changed.
            while host.replica() != dump(await api.state()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

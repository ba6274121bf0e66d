"""Which replica is kept in step with a store that is at the master alone, and what is noted of it.

Pure. Where every host that may lead reaches the store, nothing of this is needed. Where it is at
the master alone, an acknowledged commit has to be on a second host, or it is lost with the first
(design §4.3). So one of the other hosts is in step: its replica has every commit before that is
acknowledged. `Pool.in_step` says which; it is part of the chain, so that a host that was in step
when it last heard of its master knows that it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from poolcore.model import Host, HostId, Kind, Task
from poolcore.replica import Change, Put, State
from poolmaster.decide.gone import EJECT
from poolmaster.decide.messages import noted

LOST_STEP = "REPLICA_OUT_OF_STEP"
IN_STEP = "REPLICA_IN_STEP"


def is_leaving(state: State, host: HostId) -> bool:
    """Whether the host is being ejected, or has left."""
    if state.get(Host, host) is None:
        return True
    tasks = (t for t in state.all(Task) if not t.status.is_final and t.operation == EJECT)
    return any(task.params.get("host") == host for task in tasks)


def candidate(state: State, hosts: Iterable[HostId]) -> HostId | None:
    """Which of `hosts`, that have everything there is, is to be in step: the likeliest master."""
    staying = (uuid for uuid in hosts if not is_leaving(state, uuid))
    found = [host for uuid in staying if (host := state.get(Host, uuid)) is not None]
    best = min(found, key=_likelihood, default=None)
    return None if best is None else best.uuid


def _likelihood(host: Host) -> tuple[bool, bool, int, str]:
    # One in maintenance may be switched off at any moment; a witness never goes on from its copy.
    return host.witness, not host.enabled, -host.failover_priority, host.uuid


def in_step_with(state: State, host: HostId, *, now: datetime) -> tuple[Change, ...]:
    """The changes that record that the replica of `host` is in step from this commit on."""
    found = state.get(Host, host)
    if found is None or state.pool.in_step == host:
        return ()
    body = f"{found.name_label} has every change from now on before it is acknowledged."
    return (
        Put(replace(state.pool, in_step=host)),
        *noted(state, IN_STEP, cls=Kind.HOST, obj=host, now=now, priority=5, body=body),
    )


def has_heard(state: State, host: HostId) -> tuple[Change, ...]:
    """The change that records that a host knows of the handover since which it is not in step."""
    pool = state.pool
    return (Put(replace(pool, was_in_step=None)),) if pool.was_in_step == host else ()


def without_step(state: State, *, now: datetime) -> tuple[Change, ...]:
    """The changes that record that no replica is in step from this commit on."""
    host = state.pool.in_step
    if host is None:
        return ()
    alone = Put(replace(state.pool, in_step=None))
    found = state.get(Host, host)
    if found is None or is_leaving(state, host):
        return (alone,)
    body = (
        f"{found.name_label} does not confirm changes. Those that are made from now on until it "
        "does again are on the master's disk alone."
    )
    return (
        alone,
        *noted(state, LOST_STEP, cls=Kind.HOST, obj=host, now=now, priority=3, body=body),
    )

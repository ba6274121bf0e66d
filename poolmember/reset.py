"""Making a host a pool of one again, with its daemon stopped: `poolmember reset`.

Only the host's own records change: databases are moved aside, not deleted, and the hypervisor is
not even asked. The new pool is founded by the next `poolmember run`, from what is on the host then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, Pool
from poolmember.etcd.voter import EtcdVoter
from poolmember.identity import Identity, Member, Own
from poolmember.inspection import Inspection, inspect
from poolmember.state_dir import DATABASES, ETCD_FOLDER, IDENTITY_FILE, STORE_FILE, StateDir

_NEXT = "VMs are not touched. The next `poolmember run` founds a new pool with what is here then."


class Outcome(StrEnum):
    """What became of a reset."""

    DONE = "done"
    NOT_NEEDED = "not needed"
    """The host is in no pool."""
    DECLINED = "declined"
    """A person said no."""


Confirm = Callable[[Sequence[str]], bool]
"""Shows a person the sentences that say what will happen; whether they agree."""


def reset(path: Path, *, keep_vms: bool, confirm: Confirm) -> Outcome:
    """Take the host in the state directory `path` out of whatever pool it is in.

    The host keeps its uuid and name unless they cannot be read any more. Raises `STATE_IN_USE`
    while a daemon runs, `STATE_MISSING`, `RESET_WITH_VMS`, and what else
    `StateDir.open_for_reset` refuses.
    """
    if not any((path / name).exists() for name in (IDENTITY_FILE, *DATABASES)):
        raise PoolError(Reason.STATE_MISSING, path=str(path))
    with StateDir.open_for_reset(path) as directory:
        identity = directory.identity
        try:
            found = inspect(path)
        except PoolError as error:
            if error.reason is not Reason.STATE_CORRUPT:
                raise
            found = Inspection(
                path=path, identity=identity, head=None, state=None, refusals=(error,)
            )
        for refusal in found.refusals:
            if refusal.reason is not Reason.STATE_CORRUPT:
                raise refusal
        if identity is not None and identity.membership is None and not found.refusals:
            return Outcome.NOT_NEEDED
        if not keep_vms:
            _refuse_with_vms(identity, found)
        if not confirm(plan(identity, found)):
            return Outcome.DECLINED
        # It outlives the daemon. Without this host the pool replaces its vote.
        asyncio.run(EtcdVoter(path / ETCD_FOLDER, "this host").leave())
        if identity is None:
            directory.start_over()
        else:
            directory.write_identity(replace(identity, membership=None), retire=DATABASES)
        return Outcome.DONE


def _refuse_with_vms(identity: Identity | None, found: Inspection) -> None:
    if identity is None or found.state is None:
        host = "here" if identity is None else identity.name
        problem = "its replica cannot tell whether it has VMs"
        raise PoolError(Reason.RESET_WITH_VMS, host=host, problem=problem)
    vms = found.vms(identity.host)
    if vms:
        shown = ", ".join(vms[:10]) + (" …" if len(vms) > 10 else "")
        problem = f"it has {len(vms)} VMs: {shown}"
        raise PoolError(Reason.RESET_WITH_VMS, host=identity.name, problem=problem)


def plan(identity: Identity | None, found: Inspection) -> tuple[str, ...]:
    """What a reset will do, in sentences."""
    if identity is None:
        return (
            f"{IDENTITY_FILE} cannot be read: it, the store and the replica are moved aside as"
            " *.retired-N.",
            "The host gets a new uuid. A pool that it belonged to goes on listing the old one.",
            _NEXT,
        )
    sentences = [f"Host {identity.name} ({identity.host}) keeps its uuid and name."]
    membership = identity.membership
    if isinstance(membership, Member):
        sentences.append(
            f"It leaves pool {membership.pool_name} ({membership.pool}), which is not told:"
            " there it stays listed, if it still is, until it is removed there."
        )
    elif isinstance(membership, Own):
        sentences += _leaving_own_pool(identity, membership, found)
    sentences.append(
        "What is here of store and replica is kept as *.retired-N, the last three of each."
    )
    return (*sentences, _NEXT)


def _leaving_own_pool(identity: Identity, membership: Own, found: Inspection) -> Iterator[str]:
    pools = () if found.state is None else tuple(found.state.all(Pool))
    pool = f"{pools[0].name_label} ({membership.pool})" if pools else membership.pool
    if membership.store is None:
        yield f"Its pool {pool} ends, as the only store of it is {STORE_FILE} here."
    else:
        yield f"It leaves pool {pool}, whose store {membership.store} is left as it is."
        yield "To found a pool that shares a store again, name another with --store."
    if found.state is None:
        return
    for reservation in (p.reservation for p in pools):
        if reservation is not None:
            yield f"It no longer waits to be taken in by pool {reservation.pool_name}."
    others = sorted(h.name_label for h in found.state.all(Host) if h.uuid != identity.host)
    if others and membership.store is None:
        yield f"{', '.join(others)} in that pool have no store any more: eject them first."

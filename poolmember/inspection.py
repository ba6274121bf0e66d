"""What a state directory says of its host, read with every daemon dead or alive.

Nothing is locked and nothing is changed; a daemon that runs meanwhile goes on writing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, HostId, Kind
from poolcore.replica import State
from poolmember.identity import Identity, Member, Own
from poolmember.replica_file import ReplicaFile
from poolmember.replica_schema import ReplicaHead
from poolmember.state_dir import REPLICA_FILE, STORE_FILE, read_identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What there is; `refusals` say what could not be read."""

    path: Path
    identity: Identity | None
    head: ReplicaHead | None
    """None: there is no replica."""
    state: State | None
    """None: there is no replica, or it has no snapshot yet."""
    refusals: tuple[PoolError, ...] = ()

    def objects(self) -> Mapping[str, int]:
        """How many objects the replica has of each kind that occurs, in the order of `Kind`."""
        if self.state is None:
            return {}
        counts = Counter(obj.KIND for obj in self.state.objects())
        return {str(kind): counts[kind] for kind in Kind if counts[kind]}

    def vms(self, host: HostId) -> tuple[str, ...]:
        """Names of the VMs that were last known on `host`, sorted."""
        if self.state is None:
            return ()
        return tuple(sorted(v.name_label for v in self.state.all(VM) if v.resident_on == host))


def inspect(path: Path) -> Inspection:
    """Read identity and replica, each as far as it can be read.

    Raises `STATE_MISSING` when there is neither, and what the identity is refused for when there
    is no replica either.
    """
    identity, refusals = None, []
    try:
        identity = read_identity(path)
    except PoolError as error:
        refusals.append(error)
    head, state = None, None
    try:
        file = ReplicaFile.open_for_reading(path / REPLICA_FILE)
        try:
            head, state = file.head, file.load()
        finally:
            file.close()
    except PoolError as error:
        if error.reason is not Reason.STATE_MISSING:
            refusals.append(error)
        elif identity is None:
            raise (
                refusals[0] if refusals else PoolError(Reason.STATE_MISSING, path=str(path))
            ) from None
    return Inspection(
        path=path, identity=identity, head=head, state=state, refusals=tuple(refusals)
    )


def as_plain(found: Inspection) -> dict[str, Any]:
    """The form for `-o json`."""
    identity, head = found.identity, found.head
    return {
        "state_dir": str(found.path),
        "host": None if identity is None else {"uuid": identity.host, "name": identity.name},
        "membership": None if identity is None else _plain_membership(identity),
        "replica": None if head is None else _plain_replica(found, head),
    }


def _plain_membership(identity: Identity) -> dict[str, Any] | None:
    membership = identity.membership
    if isinstance(membership, Own):
        return {
            "role": "own",
            "pool": membership.pool,
            "incarnation": membership.incarnation,
            "store": membership.store,
        }
    if isinstance(membership, Member):
        return {
            "role": "member",
            "pool": membership.pool,
            "pool_name": membership.pool_name,
            "addresses": list(membership.addresses),
            "store": membership.store,
        }
    return None


def _plain_replica(found: Inspection, head: ReplicaHead) -> dict[str, Any]:
    incarnation, last = head.incarnation, head.last
    return {
        "pool": head.pool,
        "incarnation": None
        if incarnation is None
        else {
            "counter": incarnation.counter,
            "uuid": incarnation.uuid,
            "forked_at": incarnation.forked_at,
        },
        "term": None if last is None else last.term,
        "revision": None if last is None else last.revision,
        "highest_term": head.highest_term,
        "objects": dict(found.objects()),
    }


def as_rows(found: Inspection) -> list[tuple[str, str]]:
    """The form for people: what, and how it is."""
    rows = [("state directory", str(found.path))]
    identity, head = found.identity, found.head
    if identity is None:
        rows.append(("host", "not known"))
    else:
        kind = ", a witness" if identity.witness else ""
        rows.append(("host", f"{identity.name} ({identity.host}){kind}"))
        rows += _membership_rows(identity)
    if head is None:
        rows.append(("replica", "none"))
        return rows
    rows.append(("replica of", f"pool {head.pool}"))
    if head.incarnation is None or head.last is None:
        rows.append(("revision", "none yet: it waits for its first snapshot"))
        return rows
    fork = (
        f", forked at revision {head.incarnation.forked_at}" if head.incarnation.forked_at else ""
    )
    rows.append(("incarnation", f"{head.incarnation.counter} ({head.incarnation.uuid}){fork}"))
    rows.append(("term", f"{head.last.term}, highest obeyed {head.highest_term}"))
    rows.append(("revision", str(head.last.revision)))
    counts = ", ".join(f"{count} {kind}" for kind, count in found.objects().items())
    rows.append(("objects", counts or "none"))
    return rows


def _membership_rows(identity: Identity) -> list[tuple[str, str]]:
    membership = identity.membership
    if isinstance(membership, Own):
        store = membership.store or f"{STORE_FILE} in the state directory"
        return [("membership", f"its own pool {membership.pool}"), ("store", store)]
    if isinstance(membership, Member):
        return [
            ("membership", f"member of pool {membership.pool_name} ({membership.pool})"),
            ("store", membership.store or "the master's"),
            ("pool's hosts", ", ".join(membership.addresses) or "none known"),
        ]
    return [("membership", "none: the next `poolmember run` founds a pool")]

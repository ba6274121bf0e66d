"""What keeps the files of the pool's own etcd small, and what a person is told of any etcd.

Pure: facts in, one step or some warnings out; whoever carries a step out looks anew afterwards.

etcd drops what was overwritten by itself, but its place stays in the file, and the file counts
against the quota, whatever of it is in use. Only a defragmentation gives the place back, and the
member answers nobody meanwhile. So that is done to one member at a time, while all of them answer,
and to the leader last of all: it gives the lead away before, so that writes do not wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from poolcore.outlook import Warning

MIB = 1024 * 1024
DEFRAGMENT_BYTES = 128 * MIB
"""A smaller file stays as it is: a sixteenth of the quota, and quickly copied to a learner."""
DEFRAGMENT_SHARE = 0.5
"""Of a file: with less of it in use it is written anew. etcd fills what is free again, so a file is
always somewhat larger than what is in use of it."""
PAUSE_SECONDS = 60.0
"""From one defragmentation to the next: whoever left the member for another one has come back."""
COMPACT_BYTES = 1024 * MIB
"""In use of a file, half of the quota: then what was overwritten is dropped at once. etcd keeps
20,000 revisions, and with large ones these would reach the quota."""
COMPACT_PAUSE_SECONDS = 600.0
ROOM_PAUSE_SECONDS = 60.0
"""From one attempt at ending the alarm to the next."""
NEARLY_FULL = 0.8
"""Of the quota: then a person is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of the cluster."""

    id: int
    address: str
    answers: bool = True
    votes: bool = True
    leads: bool = False
    size_bytes: int = 0
    in_use_bytes: int = 0
    quota_bytes: int | None = None
    """None: it is not known."""
    full: bool = False
    """It says that writes are refused because of the quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """How many seconds ago each was done last."""

    defragmented: float
    compacted: float
    made_room: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now."""


@dataclass(frozen=True, slots=True)
class Compact:
    """Drop what was overwritten."""


@dataclass(frozen=True, slots=True)
class Defragment:
    """Have the member at this address write its file anew."""

    address: str


@dataclass(frozen=True, slots=True)
class MoveLeader:
    """Have the leader at this address give the lead to that member."""

    address: str
    to: int


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """All of that at once, and end the alarm: nothing can be written before."""


Step = Wait | Compact | Defragment | MoveLeader | MakeRoom


def next_step(members: Sequence[Member], since: Since) -> Step:
    """The one thing to do now to a cluster of the pool's own."""
    if any(member.full for member in members):
        return MakeRoom() if since.made_room >= ROOM_PAUSE_SECONDS else Wait()
    leaders = [member for member in members if member.leads]
    if len(leaders) != 1 or not all(member.answers and member.votes for member in members):
        return Wait()
    if (
        any(member.in_use_bytes > COMPACT_BYTES for member in members)
        and since.compacted >= COMPACT_PAUSE_SECONDS
    ):
        return Compact()
    wasteful = [member for member in members if _is_wasteful(member)]
    if not wasteful or since.defragmented < PAUSE_SECONDS:
        return Wait()
    first = min(wasteful, key=lambda member: (member.leads, member.id))
    others = [member.id for member in members if not member.leads]
    if first.leads and others:
        return MoveLeader(first.address, min(others))
    return Defragment(first.address)


def _is_wasteful(member: Member) -> bool:
    large = member.size_bytes >= DEFRAGMENT_BYTES
    return large and member.in_use_bytes < DEFRAGMENT_SHARE * member.size_bytes


def warnings(members: Sequence[Member], *, own: bool) -> Iterator[Warning]:
    """What a person is to know of the room in the cluster; `own`: it is the pool's own."""
    if any(member.full for member in members):
        yield Warning(
            code="ETCD_FULL",
            message="The pool's etcd has reached its quota and takes no change any more.",
            remedy="The pool makes room by itself, which takes some seconds. If this stays, what "
            "is in use is more than the quota."
            if own
            else "Compact it, defragment its members one by one and end the alarm (`etcdctl "
            "compact`, `etcdctl defrag`, `etcdctl alarm disarm`); if that gains little, raise "
            "--quota-backend-bytes.",
        )
        return
    for member in () if own else members:
        quota = member.quota_bytes
        if quota is not None and member.size_bytes >= NEARLY_FULL * quota:
            yield Warning(
                code="ETCD_NEARLY_FULL",
                message=f"The file of etcd at {member.address} has {_mib(member.size_bytes)} of "
                f"the {_mib(quota)} that its quota allows. At the quota it takes no change.",
                remedy="Raise --quota-backend-bytes, or compact and defragment it.",
            )


def limit_warnings(
    address: str, *, fewer_operations: bool, request_bytes: int | None, asked: tuple[int, int]
) -> Iterator[Warning]:
    """What somebody else's etcd takes less of than the pool asks for.

    `asked`: how many operations in a transaction, and how many bytes in a request.
    """
    operations, size = asked
    if fewer_operations:
        yield Warning(
            code="ETCD_LIMIT",
            message=f"etcd at {address} takes fewer than {operations:,} operations in a "
            "transaction. A change of the pool that needs more of them is refused.",
            remedy=f"Start every member with --max-txn-ops={operations}.",
        )
    if request_bytes is not None:
        yield Warning(
            code="ETCD_LIMIT",
            message=f"etcd at {address} takes requests of up to {_mib(request_bytes)}, not of "
            f"{_mib(size)}. A change of the pool that is larger is refused.",
            remedy=f"Start every member with --max-request-bytes={size}.",
        )


def _mib(size: int) -> str:
    return f"{size / MIB:,.4g} MiB" if size < 1000 * MIB else f"{size // MIB:,} MiB"

"""Backups of the pool's metadata: taking one, and restoring it part by part."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from poolclient._core import Core
from poolclient._errors import OutcomeUnknown, client_error
from poolclient._freshness import Freshness
from poolclient._writes import new_request_id
from poolcore.difference import ObjectDifference
from poolcore.errors import PoolError, Reason
from poolcore.facts import StoredBackup
from poolcore.model import SR, VBD, VDI, VIF, VM, Host, Kind, Network, Object, Pool
from poolcore.replica import State
from poolcore.restoration import LeftAlone
from poolcore.wire.backup import Backup, decode_backup, encode_backup
from poolcore.wire.codec import from_proto, object_to_proto
from poolmanager.v1 import agent_service_pb2, chain_pb2, resources_pb2
from poolmanager.v1 import pool_service_pb2 as pb

BACKUP_TIMEOUT_SECONDS = 60.0
"""The time limit of taking a backup, and of each part of a restore."""
PART_OBJECTS = 100
PART_BYTES = 256 * 1024
"""What a part of a restore holds at most, but for a VM that alone is more: one commit of the pool
must take it, and the master does nothing else while it decides one."""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What restoring a backup would change, and what it would leave alone."""

    objects: tuple[ObjectDifference, ...]
    """What would be created or changed, from what to what."""
    left_alone: tuple[LeftAlone, ...]
    freshness: Freshness

    @property
    def vms_back(self) -> int:
        """How many VMs would come back that the pool does not have any more."""
        return sum(item.kind is Kind.VM and item.before is None for item in self.objects)


@dataclass(frozen=True, slots=True)
class Restored:
    """What restoring a backup has changed; `revision` is the newest after it."""

    changed: int
    commits: int
    revision: int


@dataclass(slots=True)
class _Answer:
    """All messages of the stream; what a call that is not streamed would have answered."""

    freshness: chain_pb2.Freshness = field(default_factory=chain_pb2.Freshness)
    frames: list[chain_pb2.SnapshotFrame] = field(default_factory=list)


async def _collected(method: Any, request: object, *, timeout: float) -> _Answer:
    answer = _Answer()
    async for response in method(request, timeout=timeout):
        if response.WhichOneof("item") == "freshness":
            answer.freshness = response.freshness
        else:
            answer.frames.append(response.frame)
    return answer


def read_backup(data: bytes, *, name: str = "the file") -> Backup:
    """What is in a backup file's content; `name` is what errors call it.

    `Failed` with `BACKUP_DAMAGED` or `BACKUP_TOO_NEW` for what cannot be used.
    """
    try:
        return decode_backup(data, name=name)
    except PoolError as error:
        raise client_error(error) from error


async def take_backup(core: Core, *, timeout_seconds: float | None) -> Backup:
    """See `PoolClient.backup`."""
    answer, freshness = await core.transport.read(
        lambda c: partial(_collected, c.pool.GetBackup),
        pb.GetBackupRequest(),
        core.deadline(timeout_seconds or BACKUP_TIMEOUT_SECONDS),
    )

    def packed() -> Backup:
        made = datetime.now(UTC)
        data = encode_backup(answer.frames, made=made, fresh=not freshness.stale)
        # Read again before anybody relies on it: it says whether it is whole.
        return read_backup(data, name="the backup")

    return await asyncio.to_thread(packed)


async def stored_backups(core: Core, *, timeout_seconds: float | None) -> tuple[StoredBackup, ...]:
    """See `PoolClient.stored_backups`."""
    answer = await core.transport.ask(
        lambda c: c.agent.GetStoredBackups,
        agent_service_pb2.GetStoredBackupsRequest(),
        core.deadline(timeout_seconds),
    )
    return tuple(map(from_proto, answer.backups))


async def check_restore(
    core: Core, backup: Backup, *, timeout_seconds: float | None
) -> RestorePlan:
    """See `PoolClient.check_restore`."""
    objects, left_alone = list[ObjectDifference](), list[LeftAlone]()
    freshness: Freshness | None = None
    for part in parts(backup.state):
        answer, freshness = await _check(core, part, timeout_seconds)
        objects += map(from_proto, answer.objects)
        left_alone += map(from_proto, answer.left_alone)
    if freshness is None:
        raise ValueError("a backup without a pool")
    return RestorePlan(tuple(objects), tuple(left_alone), freshness)


async def restore(
    core: Core,
    backup: Backup,
    *,
    accept_other_pool: bool,
    on_progress: Callable[[float], None] | None,
    timeout_seconds: float | None,
    request_id: str | None,
) -> Restored:
    """See `PoolClient.restore`."""
    asked = list(parts(backup.state))
    changed = commits = 0
    for number, part in enumerate(asked):
        answer, freshness = await _check(core, part, timeout_seconds)
        # What a host without a master knows is no reason to leave a part out.
        if answer.objects or freshness.stale:
            request = pb.RestoreObjectsRequest(
                request_id=_request_id(core, request_id, number),
                pool=backup.header.pool,
                accept_other_pool=accept_other_pool,
                objects=part,
            )
            deadline = core.deadline(timeout_seconds or BACKUP_TIMEOUT_SECONDS)
            try:
                done = await core.transport.write(
                    lambda c: c.pool.RestoreObjects, request, deadline, request.request_id
                )
            except OutcomeUnknown as error:
                # It is the restore as a whole that is repeated, if with an id, then with its own.
                whole = request_id or ""
                raise OutcomeUnknown(Reason.OUTCOME_UNKNOWN, request_id=whole) from error
            await core.transport.written(done.incarnation, done.revision, deadline)
            changed, commits = changed + done.changed, commits + 1
        if on_progress is not None:
            on_progress((number + 1) / len(asked))
    return Restored(changed, commits, core.transport.horizon.revision)


def _request_id(core: Core, whole: str | None, number: int) -> str:
    """The id of a part: made of the whole restore's if it has one.

    Otherwise a new one for each, as the pool may forget requests before the last part is asked for.
    """
    return new_request_id(core.transport) if whole is None else f"{whole}p{number}"


async def _check(
    core: Core, part: Sequence[resources_pb2.Object], timeout_seconds: float | None
) -> tuple[pb.CheckRestoreResponse, Freshness]:
    return await core.transport.read(
        lambda c: c.pool.CheckRestore,
        pb.CheckRestoreRequest(objects=part),
        core.deadline(timeout_seconds or BACKUP_TIMEOUT_SECONDS),
    )


def parts(state: State) -> Iterator[list[resources_pb2.Object]]:
    """The objects of a backup that can be restored, in parts; a VM and what is its own in one."""
    part, size = list[resources_pb2.Object](), 0
    for group in _groups(state):
        messages = [object_to_proto(obj) for obj in group]
        length = sum(message.ByteSize() for message in messages)
        if part and (len(part) + len(messages) > PART_OBJECTS or size + length > PART_BYTES):
            yield part
            part, size = [], 0
        part += messages
        size += length
    if part:
        yield part


def _groups(state: State) -> Iterator[Sequence[Object]]:
    """What has to be restored together, in canonical order: always the same for a backup."""
    own: dict[str, list[Object]] = defaultdict(list)
    for obj in state.objects():
        if isinstance(obj, VBD | VIF):
            own[obj.vm].append(obj)
    for obj in state.objects():
        if isinstance(obj, Pool | Host | SR | VDI | Network):
            yield (obj,)
        elif isinstance(obj, VM):
            yield (obj, *own[obj.uuid])

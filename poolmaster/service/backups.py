"""Backups of the metadata: reading everything at one revision, and restoring objects of it.

A whole backup may not fit into one commit, and a commit is never split (design §6). So a restore is
asked for in parts, each a commit of its own with a request id of its own; what it comes to does not
depend on how it is divided, as long as a VM comes together with its VBDs and VIFs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from poolcore.errors import PoolError, Reason
from poolcore.model import Object
from poolcore.replica import State
from poolcore.wire.chain import snapshot_frames
from poolcore.wire.codec import object_from_proto, to_proto
from poolcore.wire.serving import Send
from poolmanager.v1 import pool_service_pb2 as pb
from poolmanager.v1 import resources_pb2
from poolmaster.decide.restore import restoration
from poolmaster.decide.update import invalid
from poolmaster.ledger import Decision
from poolmaster.mastership import Mastership
from poolmaster.service.reads import Functions, Read
from poolmaster.service.writes import request_of

OBJECTS_LIMIT = 1_000


def backup_functions(read: Read) -> Functions:
    """`GetBackup` and `CheckRestore`, over whatever state there is to read."""
    return {
        "GetBackup": partial(get_backup, read),
        "CheckRestore": partial(check_restore, read),
    }


async def get_backup(read: Read, _: pb.GetBackupRequest, send: Send) -> None:
    """Everything at one revision."""
    view = await read()
    await send(pb.GetBackupResponse(freshness=view.freshness()))
    for frame in snapshot_frames(view.state):
        await send(pb.GetBackupResponse(frame=frame))
        # Making the next frame takes a moment; let others run in between.
        await asyncio.sleep(0)


async def check_restore(read: Read, request: pb.CheckRestoreRequest) -> pb.CheckRestoreResponse:
    """What a restore of objects would change now, and what it would leave alone."""
    wanted = _objects(request.objects)
    view = await read()
    found = restoration(view.state, wanted)
    return pb.CheckRestoreResponse(
        objects=map(to_proto, found.differences),
        left_alone=map(to_proto, found.left_alone),
        freshness=view.freshness(),
    )


async def restore_objects(
    master: Mastership, request: pb.RestoreObjectsRequest
) -> pb.RestoreObjectsResponse:
    """Restore objects, in one commit."""
    wanted, asked = _objects(request.objects), request_of(request)

    def decide(state: State) -> Decision:
        if request.pool != state.pool.uuid and not request.accept_other_pool:
            raise PoolError(
                Reason.BACKUP_OF_ANOTHER_POOL, found=request.pool, expected=state.pool.uuid
            )
        return Decision(restoration(state, wanted).changes)

    outcome = await master.write(decide, request=asked)
    return pb.RestoreObjectsResponse(
        changed=0 if outcome.delta is None else len(outcome.delta.changes),
        revision=outcome.revision,
        incarnation=master.state.incarnation.uuid,
    )


def _objects(messages: Iterable[resources_pb2.Object]) -> list[Object]:
    found = [object_from_proto(message) for message in messages]
    if len(found) > OBJECTS_LIMIT:
        raise invalid("objects", f"are {len(found)}, at most {OBJECTS_LIMIT} are allowed")
    return found

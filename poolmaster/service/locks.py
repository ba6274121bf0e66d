"""Locks: the requests that take, renew and give them up."""

from __future__ import annotations

from poolcore.wire.codec import to_proto
from poolmanager.v1 import lock_service_pb2 as pb
from poolmaster.mastership import Mastership
from poolmaster.service.writes import request_of


async def acquire_lock(
    master: Mastership, request: pb.AcquireLockRequest
) -> pb.AcquireLockResponse:
    """Take a lock."""
    lock, revision = await master.locks.acquire(
        name=request.name,
        holder=request.holder,
        ttl_seconds=request.ttl_seconds,
        request=request_of(request),
    )
    return pb.AcquireLockResponse(
        lock=to_proto(lock), revision=revision, incarnation=master.state.incarnation.uuid
    )


async def renew_lock(master: Mastership, request: pb.RenewLockRequest) -> pb.RenewLockResponse:
    """Begin a lock's time anew."""
    return pb.RenewLockResponse(lock=to_proto(await master.locks.renew(request.lock)))


async def release_lock(
    master: Mastership, request: pb.ReleaseLockRequest
) -> pb.ReleaseLockResponse:
    """Give a lock up."""
    outcome = await master.locks.release(request.lock, request=request_of(request))
    return pb.ReleaseLockResponse(
        revision=outcome.revision, incarnation=master.state.incarnation.uuid
    )

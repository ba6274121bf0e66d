"""What the pool asks of a cluster's limits, and what a member says of its own when asked.

A cluster of the pool's own is started with them. On somebody else's a change that does not fit is
refused (`TransactionTooLarge`), so whoever looks after it should know before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import grpc

from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.etcd.calls import RANGE, TXN
from poolmaster.store.etcd.cluster import Endpoint

TXN_OPERATIONS = 4_096
"""A batch has up to 256 commits, each with a few objects; etcd's default is 128."""
REQUEST_BYTES = 8 * 1024 * 1024
"""A batch has up to 1 MiB of deltas, and the objects once more; etcd's default is 1.5 MiB."""
QUOTA_BYTES = 2 * 1024 * 1024 * 1024
"""Of a member's file; etcd's default."""

PROBE_SECONDS = 5.0
_OVERHEAD_BYTES = 512 * 1024
"""A member's gRPC server takes so much more than the limit for what is proposed."""
_FRAME_BYTES = 1_024
"""More than a request has besides its key."""
_RECEIVED = re.compile(r"received message larger than max \((\d+) vs\.? (\d+)\)")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a member does not take; none: it takes what the pool asks for."""

    fewer_operations: bool = False
    """It takes fewer than `TXN_OPERATIONS` in one transaction."""
    request_bytes: int | None = None
    """The most that it takes in one request, if that is less than `REQUEST_BYTES`."""


async def limits_of(member: Endpoint) -> Limits:
    """Ask a member for something as large as the pool might; it is only read, and by itself alone.

    Raises `grpc.aio.AioRpcError` when it does not answer.
    """
    nothing = pb.RangeRequest(key=b"\0", serializable=True, keys_only=True)
    operations = pb.TxnRequest(success=[pb.RequestOp(request_range=nothing)] * TXN_OPERATIONS)
    fewer = False
    try:
        await member.call(TXN, operations, seconds=PROBE_SECONDS, without_leader=True)
    except grpc.aio.AioRpcError as error:
        if "too many operations in txn" not in (error.details() or ""):
            raise
        fewer = True
    size = REQUEST_BYTES + _OVERHEAD_BYTES - _FRAME_BYTES
    large = pb.RangeRequest(key=bytes(size), serializable=True, keys_only=True)
    try:
        await member.call(RANGE, large, seconds=PROBE_SECONDS, without_leader=True)
    except grpc.aio.AioRpcError as error:
        found = _RECEIVED.search(error.details() or "")
        if found is None:
            raise
        return Limits(fewer, int(found[2]) - _OVERHEAD_BYTES)
    return Limits(fewer)

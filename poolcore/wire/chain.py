"""Deltas and snapshots on the wire and on disk.

A delta is serialized once, by the master that commits it; store, replicas and streams pass those
very bytes on. A snapshot travels in frames of about 256 KiB, with a digest in the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain

from poolcore.model import Incarnation, Kind, Object
from poolcore.replica import Change, CommitId, Delta, Put, Remove, State, snapshot
from poolcore.requests import RequestRecord
from poolcore.wire.codec import (
    MalformedMessage,
    enum_from_proto,
    enum_to_proto,
    from_proto,
    object_from_proto,
    object_to_proto,
    parse,
    serialize,
    to_proto,
)
from poolmanager.v1 import chain_pb2, resources_pb2

FRAME_BYTES = 256 * 1024


def _request_to_proto(record: RequestRecord) -> chain_pb2.RequestRecord:
    message: chain_pb2.RequestRecord = to_proto(record)
    return message


def _change_to_proto(change: Change) -> chain_pb2.Change:
    if isinstance(change, Put):
        return chain_pb2.Change(put=object_to_proto(change.object))
    return chain_pb2.Change(
        remove=chain_pb2.ObjectRef(kind=enum_to_proto(change.kind), uuid=change.uuid)
    )


def _change_from_proto(message: chain_pb2.Change) -> Change:
    match message.WhichOneof("change"):
        case "put":
            return Put(object_from_proto(message.put))
        case "remove":
            return Remove(enum_from_proto(Kind, message.remove.kind), message.remove.uuid)
        case _:
            raise MalformedMessage("a Change without a change")


def encode_delta(delta: Delta) -> bytes:
    """A delta as it is stored and sent: a serialized `Delta` message, deterministic."""
    return serialize(
        chain_pb2.Delta(
            incarnation=delta.incarnation,
            commit=to_proto(delta.commit),
            predecessor=to_proto(delta.predecessor),
            changes=map(_change_to_proto, delta.changes),
            request=None if delta.request is None else _request_to_proto(delta.request),
            succession=None if delta.succession is None else to_proto(delta.succession),
        )
    )


def decode_delta(data: bytes) -> Delta:
    """The delta of `encode_delta`'s bytes; `MalformedMessage` for anything else."""
    message = parse(chain_pb2.Delta, data)
    return Delta(
        incarnation=message.incarnation,
        commit=from_proto(message.commit),
        predecessor=from_proto(message.predecessor),
        changes=tuple(map(_change_from_proto, message.changes)),
        request=from_proto(message.request) if message.HasField("request") else None,
        succession=from_proto(message.succession) if message.HasField("succession") else None,
    )


def snapshot_frames(state: State) -> Iterator[chain_pb2.SnapshotFrame]:
    """The frames of a snapshot, in order; each is made when it is asked for."""
    by_revision = state.requests.by_revision
    return frames(
        state.incarnation,
        state.last,
        map(object_to_proto, state.objects()),
        (_request_to_proto(state.requests.by_id[by_revision[r]]) for r in sorted(by_revision)),
    )


def frames(
    incarnation: Incarnation,
    last: CommitId,
    objects: Iterable[resources_pb2.Object],
    requests: Iterable[chain_pb2.RequestRecord],
) -> Iterator[chain_pb2.SnapshotFrame]:
    """The frames of a snapshot of `objects` in canonical order, and of `requests` by revision."""
    digest = hashlib.sha256()
    header = chain_pb2.SnapshotHeader(incarnation=to_proto(incarnation), last=to_proto(last))
    frame, size = chain_pb2.SnapshotFrame(header=header), 0
    for message in chain[resources_pb2.Object | chain_pb2.RequestRecord](objects, requests):
        data = serialize(message)
        digest.update(data)
        if isinstance(message, chain_pb2.RequestRecord):
            frame.requests.append(message)
        else:
            frame.objects.append(message)
        size += len(data)
        if size >= FRAME_BYTES:
            yield frame
            frame, size = chain_pb2.SnapshotFrame(), 0
    frame.digest = digest.digest()
    yield frame


class SnapshotAssembler:
    """Puts the frames of a snapshot together and checks the digest.

    `add` returns the state with the last frame and none before; `MalformedMessage` when a frame is
    out of place or the digest does not match.
    """

    def __init__(self) -> None:
        self._incarnation: Incarnation | None = None
        self._last = CommitId(0, 0)
        self._objects: list[Object] = []
        self._requests: list[RequestRecord] = []
        self._digest = hashlib.sha256()

    def add(self, frame: chain_pb2.SnapshotFrame) -> State | None:
        """Take the next frame."""
        if frame.HasField("header"):
            if self._incarnation is not None:
                raise MalformedMessage("a second snapshot header")
            self._incarnation = from_proto(frame.header.incarnation)
            self._last = from_proto(frame.header.last)
        if self._incarnation is None:
            raise MalformedMessage("a snapshot without a header")
        for message in frame.objects:
            self._digest.update(serialize(message))
            self._objects.append(object_from_proto(message))
        for record in frame.requests:
            self._digest.update(serialize(record))
            self._requests.append(from_proto(record))
        if not frame.HasField("digest"):
            return None
        if frame.digest != self._digest.digest():
            raise MalformedMessage("the snapshot's digest does not match its content")
        return snapshot(self._incarnation, self._last, self._objects, self._requests)
